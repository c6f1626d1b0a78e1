#pragma once
/// How the clients of an instrument connect: many addresses of one machine, non-blocking, one epoll.
///
///   const int fd = dial(epoll, key, from, reflector);     // -1: refused at once; else wait for EPOLLOUT under `key`
///   if (const int error = connect_error(fd, events); error != 0) …
///
/// Errors: of the other side are values; of our own set-up (no descriptors, not our address) throw std::runtime_error.
#include <cstdint>
#include <string>

namespace calico::bench {

/// 0x0a420001: "10.66.0.1".
std::string dotted(std::uint32_t address);

/// Begins to connect to port 179 of `target`, reading and writing watched. `receive_buffer`: SO_RCVBUF, 0 = the
/// kernel's.
int dial(int epoll, std::uint64_t key, std::uint32_t source, std::uint32_t target, int receive_buffer = 0);

/// What came of it at the first events: 0, or the errno.
int connect_error(int fd, std::uint32_t events);

}  // namespace calico::bench
