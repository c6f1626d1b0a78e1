#include "tests/bench/bgp/generator.hpp"

#include <fmt/core.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "tests/bench/bgp/dial.hpp"

namespace calico::bench {
namespace {

constexpr std::size_t kRead = 256 * 1024;
constexpr auto kRetry = std::chrono::milliseconds(100);
constexpr auto kHandshake = std::chrono::seconds(5);
constexpr auto kKeepaliveEvery = std::chrono::seconds(20);

bool same(View a, View b) { return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin()); }

}  // namespace

volatile int Generator::interrupted = 0;

Totals& Totals::operator+=(const Totals& o) {
  updates += o.updates;
  bytes += o.bytes;
  announced += o.announced;
  withdrawn += o.withdrawn;
  duplicates += o.duplicates;
  spurious += o.spurious;
  own_back += o.own_back;
  med_added += o.med_added;
  return *this;
}
Totals Totals::operator-(const Totals& o) const {
  return {updates - o.updates,       bytes - o.bytes,       announced - o.announced, withdrawn - o.withdrawn,
          duplicates - o.duplicates, spurious - o.spurious, own_back - o.own_back,   med_added - o.med_added};
}

Generator::Generator(const Workload& workload)
    : workload_(workload),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      buffer_(kRead + kMaxMessage),
      keepalive_(keepalive_message()),
      cease_(notification_message(6, 2)),
      next_keepalive_(Clock::now() + kKeepaliveEvery),
      next_timer_(Clock::now()) {
  if (epoll_ < 0) throw std::runtime_error("epoll_create1 failed");
}
Generator::~Generator() {
  for (auto& p : peers_)
    if (p.fd >= 0) ::close(p.fd);
  ::close(epoll_);
}

void Generator::add(bool counted) {
  auto& p = peers_.emplace_back();
  p.index = static_cast<std::uint32_t>(peers_.size() - 1);
  p.counted = counted;
  p.bits.assign(workload_.ids() / 64 + 1, 0);
  watch_seen_.resize(peers_.size());
}

void Generator::connect(std::uint32_t client, std::vector<View> greeting) {
  auto& p = peers_[client];
  p.greeting = std::move(greeting);
  open(p);
}

void Generator::open(Peer& p) {
  p.fd = dial(epoll_, p.index, Workload::address(p.index), Workload::kReflector);
  p.state = State::connecting;
  p.give_up = Clock::now() + kHandshake;
  p.wants_write = true;
  if (p.fd < 0) close(p, true);
}

void Generator::close(Peer& p, bool again) {
  if (p.fd >= 0) ::close(p.fd);
  p.fd = -1;
  if (p.state == State::established) --established_;
  p.state = again ? State::waiting : State::idle;
  if (again) {
    ++reconnects_;
    p.retry = Clock::now() + kRetry;
  }
  p.out.clear();
  p.left.clear();
  p.held = 0;
  p.end_of_rib = false;
  std::fill(p.bits.begin(), p.bits.end(), 0);
}

void Generator::fault(std::uint64_t& counter, const Peer& p, const std::string& what) {
  ++counter;
  if (faults_.first.empty()) faults_.first = fmt::format("client {}: {}", p.index, what);
}

// The connection ended and we did not want it.
void Generator::fail(Peer& p, const std::string& why) {
  if (p.state == State::established) fault(faults_.sessions, p, why);
  close(p, true);
}

void Generator::want_write(Peer& p, bool yes) {
  if (p.wants_write == yes) return;
  p.wants_write = yes;
  epoll_event e{};
  e.events = yes ? EPOLLIN | EPOLLOUT : EPOLLIN;
  e.data.u64 = p.index;
  ::epoll_ctl(epoll_, EPOLL_CTL_MOD, p.fd, &e);
}

void Generator::send(std::uint32_t client, View bytes) {
  auto& p = peers_[client];
  if (p.fd < 0) return;
  p.out.push_back(bytes);
  if (p.out.size() == 1 && p.state != State::connecting) flush(p);
}

void Generator::flush(Peer& p) {
  while (!p.out.empty()) {
    auto& front = p.out.front();
    const auto n = ::send(p.fd, front.data(), front.size(), MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EAGAIN) return want_write(p, true);
      if (errno == EINTR) continue;
      return want_write(p, false);  // the reading side says what happened
    }
    front = front.subspan(static_cast<std::size_t>(n));
    if (front.empty()) p.out.pop_front();
  }
  want_write(p, false);
}

void Generator::cease(std::uint32_t client) {
  auto& p = peers_[client];
  if (p.fd < 0) return;
  send(client, cease_);
  // Closed with unread bytes in it the connection would end in a reset, and that is another way to go.
  ::shutdown(p.fd, SHUT_WR);
  if (p.state == State::established) --established_;
  p.state = State::closing;
}

void Generator::readable(Peer& p) {
  if (p.state == State::closing) {
    if (const auto n = ::recv(p.fd, buffer_.data(), kRead, 0); n == 0 || (n < 0 && errno != EAGAIN)) close(p, false);
    return;
  }
  const auto had = p.left.size();
  std::copy(p.left.begin(), p.left.end(), buffer_.begin());
  const auto n = ::recv(p.fd, buffer_.data() + had, kRead, 0);
  if (n < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    return fail(p, fmt::format("connection broken: {}", std::strerror(errno)));
  }
  if (n == 0) return fail(p, "connection closed");
  const auto* at = buffer_.data();
  const auto* end = at + had + static_cast<std::size_t>(n);
  while (static_cast<std::size_t>(end - at) >= kHeader) {
    const auto length = message_length(at);
    if (length == 0) {
      fault(faults_.framing, p, "a message with a bad marker or length");
      return close(p, false);
    }
    if (static_cast<std::size_t>(end - at) < length) break;
    if (!message(p, at, length)) return;
    at += length;
  }
  p.left.assign(at, end);
}

// False: the connection is gone.
bool Generator::message(Peer& p, const std::uint8_t* m, std::size_t length) {
  const auto type = m[18];
  if (type == kUpdate && p.state == State::established) {
    ++p.totals.updates;
    p.totals.bytes += length;
    switch (workload_.plan().shape) {
      case Shape::hosts4:
        update<Shape::hosts4>(p, m + kHeader, m + length);
        break;
      case Shape::hosts6:
        update<Shape::hosts6>(p, m + kHeader, m + length);
        break;
      case Shape::internet:
        update<Shape::internet>(p, m + kHeader, m + length);
        break;
    }
    return true;
  }
  if (type == kOpen && p.state == State::open_sent) {
    p.state = State::open_confirm;
    send(p.index, keepalive_);
    return true;
  }
  if (type == kKeepalive) {
    if (p.state == State::open_confirm) {
      p.state = State::established;
      ++established_;
      for (const auto& g : p.greeting) send(p.index, g);
    }
    return true;
  }
  if (type == kNotification) {
    fail(p, length > 20 ? fmt::format("NOTIFICATION {}/{}", m[19], m[20]) : "NOTIFICATION");
    return false;
  }
  if (type != kRefresh) fault(faults_.framing, p, fmt::format("message of type {} out of place", type));
  return true;
}

template <Shape S>
void Generator::update(Peer& p, const std::uint8_t* at, const std::uint8_t* end) {
  const auto size = static_cast<std::size_t>(end - at);
  const std::size_t withdrawn_length = size < 4 ? SIZE_MAX : be16(at);
  if (withdrawn_length > size - 4) return fault(faults_.framing, p, "withdrawn routes longer than the message");
  const std::size_t attributes_length = be16(at + 2 + withdrawn_length);
  if (attributes_length > size - 4 - withdrawn_length)
    return fault(faults_.framing, p, "attributes longer than the message");
  const View attributes(at + 4 + withdrawn_length, attributes_length);
  const auto* nlri = attributes.data() + attributes.size();
  if (size == 4) {
    if (S != Shape::hosts6) p.end_of_rib = true;
    return;
  }
  if (withdrawn_length > 0) withdrawn<S>(p, at + 2, at + 2 + withdrawn_length);
  const auto* nlri_end = end;
  if constexpr (S == Shape::hosts6) {
    nlri_end = nlri;  // IPv4 has no place here
    AttributeReader a(attributes);
    while (a.next()) {
      if (a.type == kMpUnreach && a.value.size() >= 3) {
        if (attributes.size() == a.value.size() + 3 && a.value.size() == 3) p.end_of_rib = true;
        withdrawn<S>(p, a.value.data() + 3, a.value.data() + a.value.size());
      } else if (a.type == kMpReach && a.value.size() >= 5 && a.value.size() >= 5U + a.value[3]) {
        nlri = a.value.data() + 5 + a.value[3];
        nlri_end = a.value.data() + a.value.size();
      }
    }
  }
  if (nlri == nlri_end) return;
  std::size_t used = 0;
  const auto first = workload_.id_at<S>(nlri, nlri_end, used);
  if (used == 0) return fault(faults_.framing, p, "a prefix cut short");
  if (first == Workload::kNone) return fault(faults_.prefixes, p, "a prefix that nobody announced");
  const auto set = workload_.set_of<S>(first);
  check(p, set, attributes);
  announced<S>(p, nlri, nlri_end, set);
}

template <Shape S>
void Generator::announced(Peer& p, const std::uint8_t* at, const std::uint8_t* end, std::uint32_t set) {
  const bool own = workload_.set(set).owner == p.index;
  const auto first = workload_.id(set, 0), count = workload_.id(1, 0);  // of host shapes
  std::uint32_t fresh = 0, again = 0;
  auto* const bits = p.bits.data();
  while (at != end) {
    std::size_t used = 0;
    const auto id = workload_.id_at<S>(at, end, used);
    if (used == 0) {
      fault(faults_.framing, p, "a prefix cut short");
      break;
    }
    at += used;
    const bool belongs = S == Shape::internet ? id != Workload::kNone && workload_.set_of<S>(id) == set
                                              : id - first < count && id != Workload::kNone;
    if (!belongs) {
      fault(faults_.prefixes, p, "a prefix that nobody announced, or with another's attributes");
      continue;
    }
    if (own) {
      ++p.totals.own_back;
      continue;
    }
    auto& word = bits[id / 64];
    const auto bit = std::uint64_t{1} << id % 64;
    again += (word & bit) != 0;
    fresh += (word & bit) == 0;
    word |= bit;
  }
  p.held += fresh;
  p.totals.announced += fresh;
  p.totals.duplicates += again;
  if (watch_ != Workload::kNone && p.counted && p.index != watch_owner_ && holds(p.index, watch_) &&
      watch_seen_[p.index] == Clock::time_point{}) {
    watch_seen_[p.index] = Clock::now();
    --watch_missing_;
  }
}

template <Shape S>
void Generator::withdrawn(Peer& p, const std::uint8_t* at, const std::uint8_t* end) {
  std::uint32_t gone = 0;
  while (at != end) {
    std::size_t used = 0;
    const auto id = workload_.id_at<S>(at, end, used);
    if (used == 0) return fault(faults_.framing, p, "a withdrawn prefix cut short");
    at += used;
    if (id == Workload::kNone) {
      fault(faults_.prefixes, p, "a withdrawn prefix that nobody announced");
      continue;
    }
    auto& word = p.bits[id / 64];
    const auto bit = std::uint64_t{1} << id % 64;
    gone += (word & bit) != 0;
    p.totals.spurious += (word & bit) == 0;
    word &= ~bit;
  }
  p.held -= gone;
  p.totals.withdrawn += gone;
}

// All but ORIGINATOR_ID and CLUSTER_LIST as it was sent, in any order and with any length form; these two as a
// reflector must set them.
void Generator::check(Peer& p, std::uint32_t set, View attributes) {
  const auto& sent = workload_.set(set);
  std::array<std::pair<std::uint8_t, View>, 16> have;
  std::size_t count = 0;
  AttributeReader a(attributes);
  while (a.next()) {
    if (count == have.size()) return fault(faults_.attributes, p, "more than 16 attributes");
    have[count++] = {a.type, a.value};
  }
  if (!a.ok()) return fault(faults_.framing, p, "an attribute cut short");
  const auto find = [&](std::uint8_t type) -> const View* {
    for (std::size_t i = 0; i < count; ++i)
      if (have[i].first == type) return &have[i].second;
    return nullptr;
  };
  const auto* originator = find(kOriginatorId);
  if (originator == nullptr || originator->size() != 4 || be32(originator->data()) != Workload::address(sent.owner))
    fault(faults_.originator, p, "ORIGINATOR_ID is missing or not the sender's");
  const auto* cluster = find(kClusterList);
  if (cluster == nullptr || cluster->size() != 4 || be32(cluster->data()) != Workload::kReflector)
    fault(faults_.cluster, p, "CLUSTER_LIST is missing or not the reflector's");
  std::size_t expected = 2;
  if (workload_.ipv6()) {
    ++expected;
    const auto* reach = find(kMpReach);
    const auto next_hop = Workload::next_hop6(sent.owner);
    if (reach == nullptr || reach->size() < 21 || !same(reach->subspan(4, 16), next_hop))
      fault(faults_.next_hop, p, "the next hop was changed");
    expected += find(kMpUnreach) != nullptr;
  }
  std::size_t hint = 0;  // nearly always in the same order
  AttributeReader s(sent.attributes);
  while (s.next()) {
    ++expected;
    const View* got = nullptr;
    if (hint < count && have[hint].first == s.type)
      got = &have[hint++].second;
    else
      got = find(s.type);
    if (got != nullptr && same(*got, s.value)) continue;
    if (s.type == kNextHop)
      fault(faults_.next_hop, p, "the next hop was changed");
    else
      fault(faults_.attributes, p, fmt::format("attribute {} is missing or changed", s.type));
  }
  if (count == expected) return;
  if (const auto* med = find(kMed);
      med != nullptr && count == expected + 1 && med->size() == 4 && be32(med->data()) == 0) {
    ++p.totals.med_added;  // FRR does; it changes no decision
    return;
  }
  std::string types;
  for (std::size_t i = 0; i < count; ++i) types += fmt::format(" {}", have[i].first);
  fault(faults_.attributes, p, fmt::format("{} attributes where {} belong: types{}", count, expected, types));
}

void Generator::timers(Clock::time_point now) {
  if (now < next_timer_) return;
  next_timer_ = now + std::chrono::milliseconds(20);
  if (established_ < peers_.size())
    for (auto& p : peers_) {
      const bool unanswered = p.state == State::connecting || p.state == State::open_sent;
      if (unanswered && now >= p.give_up) close(p, true);
      if (p.state == State::waiting && now >= p.retry) open(p);
    }
  if (now >= next_keepalive_) {
    next_keepalive_ = now + kKeepaliveEvery;
    for (auto& p : peers_)
      if (p.state == State::established && p.out.empty()) send(p.index, keepalive_);
  }
}

bool Generator::run_until(const std::function<bool()>& done, std::chrono::duration<double> limit, bool spin) {
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(limit);
  std::array<epoll_event, 256> events;
  while (!done()) {
    const auto now = Clock::now();
    if (now >= end || interrupted != 0) return false;
    timers(now);
    const auto wait = std::min<Clock::duration>(end - now, std::chrono::milliseconds(20));
    const auto ns = spin ? 0 : std::chrono::duration_cast<std::chrono::nanoseconds>(wait).count();
    const timespec timeout{0, ns};
    const int n = ::epoll_pwait2(epoll_, events.data(), static_cast<int>(events.size()), &timeout, nullptr);
    for (int i = 0; i < n; ++i) {
      auto& p = peers_[events[static_cast<std::size_t>(i)].data.u64];
      const auto what = events[static_cast<std::size_t>(i)].events;
      if (p.fd < 0) continue;
      if (p.state == State::connecting) {
        if (connect_error(p.fd, what) != 0) {
          close(p, true);
          continue;
        }
        p.state = State::open_sent;
        // Every client has its own router id, so the message is built here; it is sent whole or the socket is no use.
        const auto open = open_message(Workload::kAs, Workload::address(p.index), workload_.ipv6());
        if (::send(p.fd, open.data(), open.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(open.size())) {
          close(p, true);
          continue;
        }
        flush(p);
        continue;
      }
      if (what & EPOLLOUT) flush(p);
      if (what & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(p);
    }
  }
  return true;
}

bool Generator::all_hold_all() const {
  return std::all_of(peers_.begin(), peers_.end(),
                     [&](const Peer& p) { return !p.counted || p.held == workload_.expected(p.index); });
}
bool Generator::nobody_holds_any() const {
  return std::all_of(peers_.begin(), peers_.end(), [](const Peer& p) { return !p.counted || p.held == 0; });
}

std::string Generator::missing() const {
  std::uint64_t held = 0, wanted = 0;
  const Peer* worst = nullptr;
  for (const auto& p : peers_) {
    if (!p.counted) continue;
    held += p.held;
    wanted += workload_.expected(p.index);
    if (worst == nullptr || p.held < worst->held) worst = &p;
  }
  if (worst == nullptr) return "no receivers";
  return fmt::format("{} of {} routes held, client {} {} of {}, {} sessions up", held, wanted, worst->index,
                     worst->held, workload_.expected(worst->index), established_);
}

void Generator::watch(std::uint32_t id, std::uint32_t owner) {
  watch_ = id;
  watch_owner_ = owner;
  watch_missing_ = 0;
  for (const auto& p : peers_) watch_missing_ += p.counted && p.index != owner;
  std::fill(watch_seen_.begin(), watch_seen_.end(), Clock::time_point{});
}

Totals Generator::totals() const {
  Totals t;
  for (const auto& p : peers_)
    if (p.counted) t += p.totals;
  return t;
}

}  // namespace calico::bench
