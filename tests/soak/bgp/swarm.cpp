#include "tests/soak/bgp/swarm.hpp"

#include <fmt/core.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "tests/bench/bgp/dial.hpp"
#include "tests/soak/bgp/model.hpp"

namespace calico::soak {

using namespace std::chrono_literals;
using bench::be16;
using bench::be32;
using bench::dotted;

namespace {

constexpr std::size_t kRead = 256 * 1024;
constexpr auto kRetry = 100ms;
constexpr auto kKeepaliveEvery = 20s;
constexpr std::uint64_t kStrayKey = std::uint64_t{1} << 32U;

}  // namespace

Bytes open_message(const SessionOptions& o) {
  Bytes caps = {1, 4, 0, 1, 0, 1, 2, 0, 65, 4};
  bench::put32(caps, kAs);
  if (o.restart_time) {
    caps.insert(caps.end(), {64, 6});
    bench::put16(caps, static_cast<std::uint16_t>((o.notification ? 0x4000U : 0U) | (*o.restart_time & 0xfffU)));
    caps.insert(caps.end(), {0, 1, 1, static_cast<std::uint8_t>(o.preserved ? 0x80 : 0)});
  }
  Bytes out(16, 0xff);
  bench::put16(out, 0);
  out.insert(out.end(), {bench::kOpen, 4});
  bench::put16(out, kAs);
  bench::put16(out, 90);
  bench::put32(out, o.router_id != 0 ? o.router_id : o.source);
  out.push_back(static_cast<std::uint8_t>(caps.size() + 2));
  out.push_back(2);
  out.push_back(static_cast<std::uint8_t>(caps.size()));
  out.insert(out.end(), caps.begin(), caps.end());
  bench::patch16(out, 16, out.size());
  return out;
}

Swarm::Swarm(const Model& model)
    : model_(model),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      buffer_(kRead + bench::kMaxMessage),
      next_keepalive_(Clock::now() + kKeepaliveEvery),
      next_timer_(Clock::now()) {
  if (epoll_ < 0) throw std::runtime_error("epoll_create1 failed");
}
Swarm::~Swarm() {
  for (auto& s : sessions_)
    if (s.fd >= 0) ::close(s.fd);
  for (auto& [key, s] : strays_) ::close(s.fd);
  ::close(epoll_);
}

SessionId Swarm::add(SessionOptions options) {
  auto& s = sessions_.emplace_back();
  s.id = static_cast<SessionId>(sessions_.size() - 1);
  if (options.router_id == 0) options.router_id = options.source;
  if (options.cluster == 0) options.cluster = options.target;
  s.options = options;
  s.table.assign(model_.prefixes(), 0);
  return s.id;
}

void Swarm::connect(SessionId id) {
  auto& s = sessions_[id];
  s.wanted = true;
  if (s.fd < 0) open(s);
}

void Swarm::open(Session& s) {
  s.fd = bench::dial(epoll_, s.id, s.options.source, s.options.target, s.options.receive_buffer);
  s.interest = EPOLLIN | EPOLLOUT;
  s.state = State::connecting;
  if (s.fd < 0) close(s);
}

// Whatever it was, it is over.
void Swarm::close(Session& s) {
  if (s.fd >= 0) ::close(s.fd);
  s.fd = -1;
  const bool was = s.state == State::established;
  s.state = s.wanted ? State::waiting : State::idle;
  s.retry = Clock::now() + kRetry;
  s.out.clear();
  s.sent = 0;
  s.left.clear();
  s.end_of_rib = s.paused = false;
  if (was) {
    --established_;
    for (std::uint32_t p = 0; p < s.table.size(); ++p) set(s, p, 0);
    std::fill(s.table.begin(), s.table.end(), 0);
    s.foreign.clear();
    if (down) down(s.id);
  }
}

void Swarm::fault(std::uint64_t& counter, const Session& s, const std::string& what) {
  ++counter;
  if (faults_.first.empty())
    faults_.first = fmt::format("{} to {}: {}", dotted(s.options.source), dotted(s.options.target), what);
}

// The connection ended and we did not want it.
void Swarm::lost(Session& s, const std::string& why) {
  if (s.state == State::established)
    fault(faults_.lost, s, why);
  else
    ++totals_.refused;
  close(s);
}

void Swarm::drop(SessionId id, End how) {
  auto& s = sessions_[id];
  s.wanted = false;
  if (s.fd < 0) {
    s.state = State::idle;
    return;
  }
  if (how == End::reset) {
    const linger hard{1, 0};
    ::setsockopt(s.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    return close(s);
  }
  Bytes last;
  if (how == End::cease && s.sent == 0) last = bench::notification_message(6, 2);
  if (how == End::cut && s.sent == 0) {
    bench::pack_withdraw(last, false, std::array{Model::nlri(0)});
    last.resize(last.size() - 3);
  }
  if (!last.empty()) (void)::send(s.fd, last.data(), last.size(), MSG_NOSIGNAL);
  ::shutdown(s.fd, SHUT_WR);
  // Closed with unread bytes in it the connection would end in a reset, and that is another way to go.
  while (::recv(s.fd, buffer_.data(), kRead, 0) > 0) {
  }
  close(s);
}

void Swarm::interest(Session& s) {
  const std::uint32_t want = (s.paused ? 0U : EPOLLIN) | (s.out.empty() ? 0U : EPOLLOUT);
  if (want == s.interest) return;
  s.interest = want;
  epoll_event e{};
  e.events = want;
  e.data.u64 = s.id;
  ::epoll_ctl(epoll_, EPOLL_CTL_MOD, s.fd, &e);
}

void Swarm::pause_reading(SessionId id, bool paused) {
  auto& s = sessions_[id];
  if (s.state != State::established) return;
  s.paused = paused;
  interest(s);
}

void Swarm::send(SessionId id, Bytes bytes) {
  auto& s = sessions_[id];
  if (s.fd < 0 || bytes.empty()) return;
  s.out.push_back(std::move(bytes));
  if (s.out.size() == 1) flush(s);
}

void Swarm::flush(Session& s) {
  while (!s.out.empty()) {
    const auto& front = s.out.front();
    const auto n = ::send(s.fd, front.data() + s.sent, front.size() - s.sent, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) s.out.clear(), s.sent = 0;  // the reading side says what happened
      break;
    }
    s.sent += static_cast<std::size_t>(n);
    if (s.sent < front.size()) continue;
    s.sent = 0;
    s.out.pop_front();
  }
  interest(s);
}

void Swarm::connected(Session& s, std::uint32_t events) {
  if (const auto error = bench::connect_error(s.fd, events); error != 0) return lost(s, std::strerror(error));
  s.state = State::open_sent;
  send(s.id, open_message(s.options));
}

void Swarm::readable(Session& s) {
  const auto had = s.left.size();
  std::copy(s.left.begin(), s.left.end(), buffer_.begin());
  const auto n = ::recv(s.fd, buffer_.data() + had, kRead, 0);
  if (n < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    return lost(s, fmt::format("connection broken: {}", std::strerror(errno)));
  }
  if (n == 0) return lost(s, "connection closed");
  const auto* at = buffer_.data();
  const auto* const end = at + had + static_cast<std::size_t>(n);
  while (static_cast<std::size_t>(end - at) >= bench::kHeader) {
    const auto length = bench::message_length(at);
    if (length == 0) {
      fault(faults_.framing, s, "a message with a bad marker or length");
      return close(s);
    }
    if (static_cast<std::size_t>(end - at) < length) break;
    const auto fd = s.fd;
    if (!message(s, at, length) || s.fd != fd) return;
    at += length;
  }
  s.left.assign(at, end);
}

// False: the connection is gone.
bool Swarm::message(Session& s, const std::uint8_t* m, std::size_t length) {
  switch (m[18]) {
    case bench::kUpdate:
      if (s.state != State::established) break;
      update(s, {m + bench::kHeader, length - bench::kHeader});
      return true;
    case bench::kOpen:
      if (s.state != State::open_sent) break;
      s.state = State::open_confirm;
      send(s.id, bench::keepalive_message());
      return true;
    case bench::kKeepalive:
      if (s.state != State::open_confirm) return true;
      s.state = State::established;
      ++established_;
      ++totals_.sessions;
      if (up) up(s.id);
      return s.fd >= 0;
    case bench::kNotification:
      lost(s, length > 20 ? fmt::format("NOTIFICATION {}/{}", m[19], m[20]) : "NOTIFICATION");
      return false;
    case bench::kRefresh:
      return true;
    default:
      break;
  }
  fault(faults_.framing, s, fmt::format("message of type {} out of place", m[18]));
  return true;
}

void Swarm::update(Session& s, View body) {
  const std::size_t size = body.size(), gone = size < 4 ? SIZE_MAX : be16(body.data());
  if (gone > size - 4) return fault(faults_.framing, s, "withdrawn routes longer than the message");
  const std::size_t length = be16(body.data() + 2 + gone);
  if (length > size - 4 - gone) return fault(faults_.framing, s, "attributes longer than the message");
  if (size == 4) {
    s.end_of_rib = true;
    if (ended_rib) ended_rib(s.id);
    return;
  }
  withdrawn(s, body.subspan(2, gone));
  const auto nlri = body.subspan(4 + gone + length);
  if (!nlri.empty()) announced(s, nlri, body.subspan(4 + gone, length));
}

namespace {
/// Calls f(bits, address) for each; false when one is cut short.
template <class F>
bool each_prefix(View nlri, F&& f) {
  while (!nlri.empty()) {
    const unsigned bits = nlri[0], bytes = (bits + 7) / 8;
    if (bits > 32 || nlri.size() < 1 + bytes) return false;
    std::uint32_t address = 0;
    for (unsigned i = 0; i < bytes; ++i) address |= std::uint32_t{nlri[1 + i]} << (24 - 8 * i);
    f(bits, address);
    nlri = nlri.subspan(1 + bytes);
  }
  return true;
}
}  // namespace

void Swarm::set(Session& s, std::uint32_t prefix, std::uint32_t version) {
  auto& v = s.table[prefix];
  const auto before = v & kGone ? 0 : v;
  v = version != 0 ? version : v | kGone;
  if (before != version && changed) changed(s.id, prefix, before, version);
}

void Swarm::announced(Session& s, View nlri, View attributes) {
  std::uint32_t version = UINT32_MAX;
  const bool whole = each_prefix(nlri, [&](unsigned bits, std::uint32_t address) {
    ++s.announced;
    ++totals_.announced;
    const auto p = bits == 32 ? model_.prefix_of(address) : model_.prefixes();
    if (p == model_.prefixes()) {
      s.foreign.insert(std::uint64_t{bits} << 32U | address);
      return;
    }
    if (version == UINT32_MAX) version = check(s, attributes);
    if (version == 0) return;
    const auto last = s.table[p] & ~kGone;
    if (check_order && last > version && model_.owner(last) == model_.owner(version))
      fault(faults_.older, s, fmt::format("prefix {} in version {} after {}", p, version, last));
    set(s, p, version);
  });
  if (!whole) fault(faults_.framing, s, "a prefix cut short");
}

void Swarm::withdrawn(Session& s, View nlri) {
  const bool whole = each_prefix(nlri, [&](unsigned bits, std::uint32_t address) {
    ++totals_.withdrawn;
    const auto p = bits == 32 ? model_.prefix_of(address) : model_.prefixes();
    if (p == model_.prefixes())
      s.foreign.erase(std::uint64_t{bits} << 32U | address);
    else
      set(s, p, 0);
  });
  if (!whole) fault(faults_.framing, s, "a withdrawn prefix cut short");
}

// The version, 0 if there is none; the attributes must be those it was announced with, and the reflector's two.
std::uint32_t Swarm::check(const Session& s, View attributes) {
  std::array<View, 16> have{};
  unsigned count = 0;
  bench::AttributeReader a(attributes);
  while (a.next())
    if (a.type < have.size() && ++count > 0) have[a.type] = a.value;
  const auto number = [&](bench::AttributeType t) { return have[t].size() >= 4 ? be32(have[t].data()) : 0; };
  const auto version = number(bench::kCommunities) - Model::kCommunity;
  const auto owner = model_.owner(version);
  if (!a.ok() || owner == model_.clients()) {
    fault(faults_.unknown, s, "a route of a version that nobody announced");
    return 0;
  }
  const auto from = client_address(owner);
  const bool equal = count == 7 && number(bench::kNextHop) == from && number(bench::kOriginatorId) == from &&
                     number(bench::kLocalPref) == 100 && have[bench::kAsPath].empty() &&
                     have[bench::kOrigin].size() == 1 && have[bench::kOrigin][0] == 0 &&
                     have[bench::kCommunities].size() == 4 && number(bench::kClusterList) == s.options.cluster;
  if (!equal)
    fault(faults_.attributes, s, fmt::format("version {} of client {} with other attributes", version, owner));
  if (from == s.options.router_id) fault(faults_.attributes, s, "its own route was sent back");
  return version;
}

void Swarm::stray(std::uint32_t source, std::uint32_t target, Bytes bytes, Clock::duration linger, bool reads) {
  const auto key = next_stray_++;
  const int fd = bench::dial(epoll_, kStrayKey | key, source, target);
  if (fd < 0) return;
  strays_[key] = {fd, std::move(bytes), 0, false, reads, Clock::now() + linger};
}

void Swarm::stray_event(std::uint32_t key, std::uint32_t events) {
  const auto it = strays_.find(key);
  if (it == strays_.end()) return;
  auto& s = it->second;
  const auto end = [&] {
    ::close(s.fd);
    strays_.erase(it);
  };
  if (!s.connected && (events & EPOLLOUT) && !(events & EPOLLERR)) s.connected = true, ++strays_connected_;
  if (events & EPOLLERR) return end();
  if (s.reads || (events & EPOLLHUP)) {
    const auto n = ::recv(s.fd, buffer_.data(), kRead, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return end();
  }
  while (s.connected && s.sent < s.bytes.size()) {
    const auto n = ::send(s.fd, s.bytes.data() + s.sent, s.bytes.size() - s.sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) return end();
    s.sent += static_cast<std::size_t>(n);
  }
  if (!s.connected) return;
  epoll_event e{};
  if (s.reads) e.events = EPOLLIN;
  e.data.u64 = kStrayKey | key;
  ::epoll_ctl(epoll_, EPOLL_CTL_MOD, s.fd, &e);
}

void Swarm::timers(Clock::time_point now) {
  if (now < next_timer_) return;
  next_timer_ = now + 10ms;
  for (auto& s : sessions_)
    if (s.state == State::waiting && now >= s.retry) open(s);
  std::erase_if(strays_, [&](const auto& s) { return now >= s.second.until && (::close(s.second.fd), true); });
  if (now < next_keepalive_) return;
  next_keepalive_ = now + kKeepaliveEvery;
  for (auto& s : sessions_)
    if (s.state == State::established && s.out.empty()) send(s.id, bench::keepalive_message());
}

bool Swarm::run_until(const std::function<bool()>& done, Clock::duration limit) {
  const auto end = Clock::now() + limit;
  std::array<epoll_event, 256> events;
  Clock::time_point asked{};
  for (;;) {
    const auto now = Clock::now();
    if (now - asked >= 5ms) {
      asked = now;
      if (done()) return true;
    }
    if (now >= end) return false;
    timers(now);
    const int n = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 5);
    for (int i = 0; i < n; ++i) {
      const auto what = events[static_cast<std::size_t>(i)].events;
      const auto key = events[static_cast<std::size_t>(i)].data.u64;
      if (key & kStrayKey) {
        stray_event(static_cast<std::uint32_t>(key), what);
        continue;
      }
      auto& s = sessions_[static_cast<SessionId>(key)];
      if (s.fd < 0) continue;  // ended by an event before
      if (s.state == State::connecting) {
        connected(s, what);
        continue;
      }
      if (what & EPOLLOUT) flush(s);
      if (what & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(s);
    }
  }
}

}  // namespace calico::soak
