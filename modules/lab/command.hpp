#pragma once
/// The command line of `calico-node lab`. Exit codes as everywhere: 0 well, 1 a check failed, 2 bad usage, 3 something
/// outside failed. Thread: main.

namespace calico::lab {

int lab_main(int argc, char** argv);

}  // namespace calico::lab
