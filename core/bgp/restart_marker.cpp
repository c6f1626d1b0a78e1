#include "core/bgp/restart_marker.hpp"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <fstream>

namespace calico::bgp {

namespace {
std::string boot_id() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  in >> id;
  return id;
}

std::int64_t seconds_of(clockid_t clock) {
  timespec ts{};
  clock_gettime(clock, &ts);
  return ts.tv_sec;
}
}  // namespace

RestartMarker::RestartMarker(std::string state_dir) {
  if (!state_dir.empty()) path_ = std::move(state_dir) + "/bgp.running";
}

std::optional<LastRun> RestartMarker::load() const {
  if (path_.empty()) return std::nullopt;
  std::ifstream in(path_);
  std::string boot;
  std::int64_t up = 0, wall = 0;
  if (!(in >> boot >> up >> wall)) return std::nullopt;
  LastRun last;
  last.same_boot = boot == boot_id();
  // Across a boot only the wall clock goes on; a clock set back counts as no time.
  const auto age = last.same_boot ? seconds_of(CLOCK_BOOTTIME) - up : seconds_of(CLOCK_REALTIME) - wall;
  last.age = std::chrono::seconds(std::max<std::int64_t>(0, age));
  return last;
}

Status RestartMarker::store() const {
  if (path_.empty()) return {};
  const auto fresh = path_ + ".new";
  {
    std::ofstream out(fresh, std::ios::trunc);
    out << fmt::format("{} {} {}\n", boot_id(), seconds_of(CLOCK_BOOTTIME), seconds_of(CLOCK_REALTIME));
    out.flush();
    if (!out) return fail(Errc::unavailable, "{}: cannot be written", fresh);
  }
  if (std::rename(fresh.c_str(), path_.c_str()) != 0) return fail_errno(errno, path_);
  return {};
}

void RestartMarker::remove() const {
  if (!path_.empty()) ::unlink(path_.c_str());
}

}  // namespace calico::bgp
