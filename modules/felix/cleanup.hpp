#pragma once
/// The applet `cleanup`: takes out of the kernel what calico-node's roles left there, and nothing else. deb/'s postrm
/// does the same without us, in shell; the two know what is ours by the same marks:
///
///   routes            protocol 88 (felix) and 89 (BGP), every table; nexthop objects of protocol 89; another
///                     [felix] route_protocol: to interfaces of its prefix, and blackholes, only
///   neighbours        permanent ones, IPv6 proxy entries, a tbf with a handle c000: to cfff: at the root, the device
///                     group: on interfaces in one of felix's groups
///   the DHCP bridge   by its name
///   tables            inet calico, arp calico, inet calico-guard, arp calico-guard
///
/// Ways go first and rules last, so that nothing is open in between. Stays: settings of machines' interfaces (what they
/// were is not known, and they go with the interface), entries of the connection table (they end by themselves).
/// Thread: main. Source: tests/netns/felix/cleanup_test.cpp.
namespace calico::felix {
/// `calico-node cleanup [--dry-run] [--config FILE]…`. Returns: 0 all is gone or nothing was there, 1 refused (a
/// calico-node runs) or something is left, 2 usage, 3 not root or no netlink.
int cleanup_main(int argc, char** argv);
}  // namespace calico::felix
