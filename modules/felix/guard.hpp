#pragma once
/// The applet `guard`: what protects the host between boot and felix's first change. Thread: main.
namespace calico::felix {
/// `calico-node guard [--config FILE]…`: loads the boot guard, or does nothing when felix's table is there.
int guard_main(int argc, char** argv);
}  // namespace calico::felix
