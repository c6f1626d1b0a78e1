#pragma once
/// The applet `birdc [-s SOCKET] [-r] COMMAND…`: sends one command to a BIRD control socket (ours or BIRD's own) and
/// prints the answer without its codes, as BIRD's client does. Without a command: reads commands from stdin, one a
/// line. Thread: main; blocks. Exit codes: 0 answered; 1 the answer holds an error
/// (8xxx, 9xxx); 2 bad usage; 3 no server.
namespace calico::bgp {

inline constexpr const char* kBirdSocket = "/run/calico-node/bird.ctl";

int birdc_main(int argc, char** argv);

}  // namespace calico::bgp
