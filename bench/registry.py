"""The benches by name, in the order in which they run. Measures nothing itself."""

from __future__ import annotations

from bench import (
    agent,
    api,
    controller,
    domain,
    fleet,
    flood,
    growth,
    guarded,
    migration,
    network,
    ovn,
    records,
    security,
)
from bench.context import Bench

_ANEW = (
    "of two topologies of the very same programs one is some per cent faster for as long as both stand, by where their "
    "memory came to lie"
)
_TRAFFIC = (
    "bench/traffic.c sends and receives; sender and receiver are held to a CPU each, the same for all sides. These "
    "take turns of 50 ms (the first fourth of each not counted), 25 each with the same sockets, in an order that turns "
    "round and begins with another one each time. Of each round the ratio of the two sides' turns is taken, which lie "
    "some tenths of a second apart: what the machine does besides both see alike. Four such runs, each in a topology "
    f"set up anew: {_ANEW}. The value is the median of the four runs' medians, whatever these are; how far they lie "
    "apart stands with each figure."
)

BENCHES: dict[str, Bench] = {
    bench.name: bench
    for bench in (
        Bench(
            "tcp",
            "TCP, one stream, Weft NVGRE : plain Linux routing",
            f"One stream, bytes counted where they are received; Reno, in writes of "
            f"1,000,000 and reads of 250,000 bytes (bench/traffic.c says why). {_TRAFFIC} The other side: "
            "the same namespaces and wires, the hosts forward by their own routes, no overlay, MTU 1500. "
            "Weft's guests have 1458, what NVGRE leaves of an uplink's 1500.",
            network.tcp,
        ),
        Bench(
            "vxlan",
            "TCP, one stream, Weft NVGRE : Linux VXLAN device and bridge",
            "As tcp; the other side: on each host a VXLAN device (VNI 100, port 8472: 4789 is Weft's own) in a bridge "
            "with the guest's veth, flooding and learning as they come, MTU 1450.",
            network.vxlan,
        ),
        Bench(
            "pps",
            "UDP, 64-byte packets per second, Weft NVGRE : plain Linux routing",
            "Frames of 64 bytes as RFC 2544 counts them (18 bytes of payload; the 4 of the FCS, which veth does not "
            f"carry, included), sent with sendmmsg as fast as they go, counted where they are received. {_TRAFFIC}",
            network.pps,
        ),
        Bench(
            "latency",
            "Ping-pong of one byte over UDP, Weft NVGRE : plain Linux routing",
            "One datagram under way at a time; both ends on one CPU, so that no wake-up of another CPU hides what the "
            f"path costs. {_TRAFFIC}",
            network.latency,
        ),
        Bench(
            "rules",
            "VXLAN, Geneve, GRE and STT : plain Linux routing",
            "As tcp and pps, which measure NVGRE; a subnet for each rule, between the same guests and hosts, and all "
            "of them and plain routing in the same rounds. The guests' MTU is what the rule leaves of the uplink's "
            "1500, and so for IP rewrite the uplink's own; plain routing's is 1500. roomy: uplinks of 1600, as README "
            "would have them, so that all guests have 1500.",
            network.rules,
        ),
        Bench(
            "openvswitch",
            "Weft : Open vSwitch's userspace datapath, both with GRE, VXLAN and Geneve",
            "As tcp, pps and latency, in one run, between the same guests and hosts. The other side: Debian's Open "
            "vSwitch 3.1 on each host, datapath_type=netdev, one bridge with the uplink and the tunnel end point, one "
            "for each kind of tunnel with the guest's veth, forwarding by what it learns (NORMAL). Its guests have "
            "checksum offload, and so TSO, turned off, as that datapath wants it: it does not finish checksums that a "
            "veth left to it, and does not put TSO packets into tunnels.",
            network.openvswitch,
        ),
        Bench(
            "flood",
            "Copies of a broadcast to 100 hosts",
            "A guest sends broadcasts of 64 bytes as fast as its socket takes them; its host makes a copy for each of "
            "100 hosts (head-end replication), all behind one gateway. Copies are counted as they are given to the "
            "uplink, and once more at its other end. Everything runs in the sender's own time, on one CPU.",
            flood.run,
        ),
        Bench(
            "guarded",
            "With security groups : without; with 100,000 connections : with 10",
            "As tcp, pps and latency, but for two topologies side by side. In one both ports have a stateful group of "
            "1,000 rules, and what lets the traffic through is a rule with a remote group of 10,000 members; the other "
            "has none. Then both have it, and hold 100,000 established connections and ten. Of latencies the ratio is "
            f"turned round. Both are set up six times, since {_ANEW}; three times the one with groups comes first, and "
            "three times the other (the second is the faster one more often than not). 25 turns of each side in "
            "each; the value is the median of the six medians, of which none is left out. "
            "Connections a second: a client on each of two CPUs keeps 64 under way, and resets each once it is "
            "established; its server is on the same CPU, so that no contender has a CPU that the others leave idle. "
            "All sides take turns, eight in each set-up, of a tenth of a second that is not counted and at least 0.2 "
            "that are: in less, some time slices of the scheduler would decide. A turn in which another makes none "
            "counts as none. Before each of its turns Open vSwitch is made to forget all connections (else it refuses "
            "ever more of the ports that come again, and makes none at all after some turns). "
            "Beside the guarded ports: Linux's own tracker behind nftables (the namespaces of plain; established "
            "accepted, 1,000 rules and 10,000 members as sets) and Open vSwitch's ct() (its userspace datapath with "
            "VXLAN, a flow for each rule and member), both on both hosts, in a topology of their own that comes up "
            "after the others. Established traffic through these, too, in fewer turns.",
            guarded.run,
        ),
        Bench(
            "scale",
            "The same with 1,000,000 records in the map : with 10",
            "Two topologies side by side with maps of the same size, one with a million records in it and one with "
            "ten, set up four times, either first as often as the other. One flow each, in one subnet and routed "
            "between two; and, harder, every packet to another one of a million addresses of guest 2: in the full map "
            "each has a record of its own, in the other one route leads to guest 2 for all of them. (To a million "
            "destinations Linux itself sends a quarter fewer packets than to one, so both sides have them.) Of "
            "latencies the ratio is turned round, so that >= 0.97 says the same everywhere.",
            network.scale,
        ),
        Bench(
            "records",
            "Records put into the kernel's map",
            "Records of 500 hosts' ports in /20 subnets into an empty map. records_into_kernel: encoded beforehand, by "
            "BPF_MAP_UPDATE_BATCH, as the data plane calls it. records_through_update: typed rows through the data "
            "plane's own update().",
            records.run,
        ),
        Bench(
            "agent",
            "An agent, 1,000,000 rows from the feed until they are programmed",
            "`weft agent` as a process of its own, in a network namespace, with the feed served as a controller serves "
            "it to a second listener (encoded already), over a unix socket by another process. From the agent's "
            "request until its report says that the revision is applied; then the kernel's maps are counted. Memory: "
            "VmHWM of the process. Two policies: half a million ports (a record and a MAC record each), and a million "
            "records.",
            agent.run,
        ),
        Bench(
            "api",
            "From the API's answer to programmed, one port, 3 hosts",
            "A lab with a controller and three agents. Each port is a PUT, some 30 ms after the former. Its guest's "
            "interface is there already; half of the ports' were attached through the agent's socket before (and are "
            "closed until the port comes), the other half the agent finds by their names. From the PUT's answer until "
            "the kernel's maps, looked at every 0.2 ms, have the record on all three hosts, and the port with its "
            "source address on its own, and then the interface's programs have answered an ARP request of its guest.",
            api.run,
        ),
        Bench(
            "controller",
            "Ports created through batch apply, durable",
            "`weft controller` over a unix socket, SQLite on disk (WAL, synchronous=FULL). One client sends batches of "
            "1,000, one after the other; MAC and address are chosen by the controller; bodies are made beforehand and "
            "answers read, not parsed.",
            controller.run,
        ),
        Bench(
            "domain",
            "A routing domain of 40,000 ports over 500 hosts, from apply until every host holds its rows",
            "`weft controller` with 500 open feeds. One apply of 40,000 ports; every host gets the rows of the domain. "
            "498 hosts count their rows, 2 decode and keep them as an agent does, and all must have exactly what they "
            "should. Controller and hosts share this machine.",
            domain.run,
        ),
        Bench(
            "fleet",
            "22,500 ports on 500 hosts: one port more until every host that needs it has it; a controller comes back",
            "`weft controller` with 500 open feeds and 22,500 ports in 50 routing domains of 450, each over 450 "
            "hosts; over SQLite, and over three etcd nodes, all on this machine's disk. A port more is a PUT; "
            "hosts count their rows as in `domain`. From its answer until the last of the 450 hosts has the "
            "bookmark behind its rows; whole: from the request. The published bars are of a peer whose agents "
            "program Open vSwitch. Then the controller is started anew; every host has lost it, comes back within"
            " its jittered wait of at most 3 s, and is sent everything.",
            fleet.run,
        ),
        Bench(
            "ovn",
            "OVN, 22,500 ports on 500 chassis: one port more; and Weft the same",
            "Debian's OVN 23.03: northd, its two databases, 50 logical switches of 450 ports, 500 chassis. 4 chassis "
            "are real: ovn-controller with its own database and ovs-vswitchd (dummy datapath), ovn-monitor-all; the "
            "others are rows, their ports bound by a client. Its client is a bare OVSDB one, which counts and waits as "
            "`ovn-nbctl --wait` does, without that program's start. Then Weft: as fleet, over SQLite, and then as many "
            "real agents as OVN has real chassis, with their data planes in namespaces. Comparable: "
            "numbers of ports, hosts and domains, what is asked, and the machine. In OVN's favour: its databases do "
            "not sync to disk, addresses are given and not drawn, only its real chassis read anything, and --wait=hv "
            "does not wait until the other chassis know where the port is. In Weft's: the new port has no interface "
            "here (api has), and OVN's has. Not comparable: what either does with packets, and what else OVN computes "
            "for them in advance.",
            ovn.run,
        ),
        Bench(
            "growth",
            "What ports cost at ten times as many each: 1,000 to 1,000,000 in one controller",
            "Batches of 10,000 ports, on 500 hosts, in tenants of 20,000; then the controller is started anew. Over "
            "SQLite and over three etcd nodes. The plot is build/growth.svg. Memory: VmHWM of the controller after its "
            "new start.",
            growth.run,
            growth.PLOT,
        ),
        Bench(
            "security",
            "75,000 security group rules over 100,000 ports compiled; one member more of a group on 500 hosts",
            "Compiling: a catalog and a compiler in a process of their own, from objects to every row of every scope "
            "of every host; memory: VmHWM of the process. One member more: `weft controller` with 500 open feeds, "
            "10,000 ports in one group whose rules name it; a port more, again and again, from the PUT's answer until "
            "every host has its record and the bookmark behind it. 498 hosts count, 2 decode and keep their rows as an "
            "agent does, and all records must bear the group.",
            security.run,
        ),
        Bench(
            "migration",
            "A virtual machine migrates between hosts in different subnets: the longest time without an answer",
            "A lab of three hosts; QEMU 7.2 (software emulation, 128 MB, virtio-net on taps with vnet_hdr) with "
            "Debian's cloud kernel goes from host to host, by `destination`, QEMU's own migration, and `host`. It has "
            "two NICs: one on Weft, and one on a Linux bridge with a VXLAN device on the same hosts. A guest on the "
            "third host pings it 100 times a second, and has 100,000 bytes a second echoed over a TCP connection: "
            "by Weft and by the bridge in turn, a migration each. Once the machine has answered and echoed on its new "
            "host the move is ended and the QEMU that it left taken away, by both ways: that is work for every host, "
            "and here three hosts, a controller and the machine share two cores (ended at once, it takes the emulated "
            "CPU from the machine, and a gap is some 20 ms longer). The gap is the longest time from answer to answer, "
            "so some 20 ms without any migration (gap_calm), the longest of a hundred. By the clock of the machine's "
            "own events it is told apart: from the last answer until the machine stops; the pause; the emulated CPU's "
            "first steps, which must translate some 3000 blocks of the guest's kernel before its first answer, and "
            "what waits on its new tap, by Weft some 20 frames of just before the pause; the way of the first new "
            "answer to the peer.",
            migration.run,
        ),
    )
}

#: What it would take, for figures that may be missed. By the figure's name.
_ATTACH = (
    "each attachment of a program by TCX waits for an RCU grace period in the kernel (synchronize_rcu, some 12 ms "
    "here), and a port needs two, one after the other under the kernel's RTNL lock. Nobody waits for them but ports "
    "that come to the same host meanwhile. It would take a thread of its own for the second of them."
)
_MAP_MISSES = (
    "each put is a handful of cache and page table misses in the kernel's hash. It would take puts from two threads at "
    "once, each with half of the records."
)
_AGENT = (
    "the rows cross Python four times (decoded, kept by scope, encoded, and looked through once more when the feed is "
    "complete, for what is to be removed), under one interpreter lock. It would take the last of them out of the way: "
    "the report could come before it, since every row is programmed by then."
)
_TUNNEL = (
    "at its bar within what runs differ by. 64 KiB cost the sender's CPU some 9.5 us, and the receiver's 7.5, of which "
    "the copies are most; of the rest the largest part that is a tunnel's alone is that the kernel looks twice more at "
    "each large packet that bpf_skb_adjust_room has touched (SKB_GSO_DODGY, 0.2 us of the sender's). The guests' "
    "smaller MTU is not it: with roomy uplinks it is the same. It would take a helper that encapsulates without that "
    "mark; of small packets, headroom for the outer header (4 %), which a veth has only as a bridge's port."
)
_REWRITTEN = (
    "it has no header, but a program more each way and checksums to mend; at its bar within what pairs differ by. It "
    "would take the rewriting in weft_from_port itself, whose stack has no room for it on Linux 6.1."
)
_GUARDED = (
    "a look-up of the guard, one of the connection, and a lock, on either side: some 200 ns of 3.5 us. It would take "
    "the guard in the port's own entry (which then no longer changes in one write), or a shorter key than 48 bytes."
)
MISSED: dict[str, str] = {
    "tcp_vs_plain": _TUNNEL,
    **{f"{what}_{rule}_vs_plain": _TUNNEL for rule in ("vxlan", "geneve", "gre", "stt") for what in ("tcp", "pps")},
    **{f"{what}_rewrite_vs_plain": _REWRITTEN for what in ("tcp", "pps")},
    "guarded_tcp": _GUARDED,
    "guarded_pps": _GUARDED,
    "guarded_latency_p50_none_vs_groups": _GUARDED,
    "guarded_latency_p99_none_vs_groups": _GUARDED,
    "records_into_kernel": _MAP_MISSES,
    "agent_ports_seconds": _AGENT,
    "agent_records_seconds": _AGENT,
    "api_to_programmed_by_name_p50": _ATTACH,
    "api_to_programmed_by_name_p99": _ATTACH,
    "migration_gap": (
        "nearly all of it is the machine's own: QEMU's pause (6 ms), and an emulated CPU that begins with an empty "
        "translation cache (25 ms of its own time until the first answer, more where something else takes the core), "
        "over the bridge as well; the network's part is less than 0.1 ms. It would take a CPU that is not emulated."
    ),
    "scale_pps_spread": (
        "no cache holds the next packet's record: some 0.6 us in the kernel's hash, for a bucket and an entry in "
        "memory and their pages' places. Plain Linux routing with a million routes loses as much to itself with "
        "one, in the same rounds (0.85). Without preallocation, so in large pages, it is the same (0.865 beside "
        "0.857). It would take a table of our own in an array, with a record's key and value in one cache line: "
        "IPv4 and a number for the PA, 24 bytes of now 44."
    ),
}
