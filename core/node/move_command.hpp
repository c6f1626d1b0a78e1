#pragma once
/// `calico-node store move`, the command's side (move_control.hpp is the process').
#include <string>

namespace calico::node {

struct MoveAsked {
  std::string run_dir;
  std::string to;  ///< "embedded", or URLs by commas; empty: only say where it is and who follows
  bool check = false, force = false, json = false;
};
/// Blocks until the move is made and the nodes follow, at most a minute or two beyond it. Returns the exit code.
int move_main(const MoveAsked& asked);

}  // namespace calico::node
