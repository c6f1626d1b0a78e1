#pragma once
/// What arrives at an interface, counted frame by frame with the time of the first and the last; and what a VM sends
/// all the time, made by hand so that no missing neighbour or route of its own holds it back.
#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/netns/felix/bench.hpp"
#include "tests/support/frames.hpp"

namespace calico::test {

/// UDP is named "udp4 7082" and "udp6 7082", by family and destination port; answers to ARP "arp", questions
/// "arp fa:16:3e:00:00:01", by the sender's MAC. Nothing else counts.
class Tally {
 public:
  using Time = std::chrono::steady_clock::time_point;
  struct Line {
    long count = 0;
    Time first, last;
    std::chrono::steady_clock::duration gap{};  ///< the longest between two
  };

  Tally(const Netns& ns, const std::string& interface) {
    fd_ = ns.in([&] {
      const int fd = ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
      sockaddr_ll at{};
      at.sll_family = AF_PACKET;
      at.sll_protocol = htons(ETH_P_ALL);
      at.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
      if (fd < 0 || ::bind(fd, reinterpret_cast<sockaddr*>(&at), sizeof at) != 0) return -1;
      const int room = 64 << 20;
      setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
      return fd;
    });
    if (fd_ < 0) throw std::runtime_error("packet socket at " + interface);
    thread_ = std::thread([this] { run(); });
  }
  Tally(const Tally&) = delete;
  Tally& operator=(const Tally&) = delete;
  ~Tally() {
    stop_ = true;
    thread_.join();
    ::close(fd_);
  }
  Line line(const std::string& name) {
    std::lock_guard lock(mutex_);
    const auto it = lines_.find(name);
    return it == lines_.end() ? Line{} : it->second;
  }
  long count(const std::string& name) { return line(name).count; }
  /// Begins anew.
  void reset() {
    std::lock_guard lock(mutex_);
    lines_.clear();
  }
  /// Frames the kernel could not queue for us: 0, or the counts are no counts.
  unsigned lost() const {
    tpacket_stats s{};
    socklen_t n = sizeof s;
    getsockopt(fd_, SOL_PACKET, PACKET_STATISTICS, &s, &n);
    return s.tp_drops;
  }

 private:
  static std::string name_of(const std::uint8_t* p, std::size_t n) {
    if (n < 42) return {};
    const unsigned type = p[12] << 8U | p[13];
    if (type == ETHERTYPE_ARP) {
      Mac sender;
      std::copy(p + 22, p + 28, sender.b.begin());
      return p[21] == 2 ? "arp" : "arp " + sender.to_string();
    }
    const bool v4 = type == ETHERTYPE_IP && p[23] == 17;
    const bool v6 = type == ETHERTYPE_IPV6 && n >= 62 && p[20] == 17;
    if (!v4 && !v6) return {};
    const std::size_t at = v4 ? 36 : 56;
    return fmt::format("udp{} {}", v4 ? 4 : 6, p[at] << 8U | p[at + 1]);
  }
  void run() {
    std::array<std::uint8_t, 2048> buf{};
    while (!stop_) {
      pollfd wait{fd_, POLLIN, 0};
      if (::poll(&wait, 1, 20) != 1) continue;
      sockaddr_ll from{};
      for (;;) {
        socklen_t len = sizeof from;
        const auto n = ::recvfrom(fd_, buf.data(), buf.size(), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), &len);
        if (n <= 0) break;
        if (from.sll_pkttype == PACKET_OUTGOING) continue;
        const auto name = name_of(buf.data(), static_cast<std::size_t>(n));
        if (name.empty()) continue;
        const auto now = std::chrono::steady_clock::now();
        std::lock_guard lock(mutex_);
        auto& l = lines_[name];
        if (l.count++ == 0)
          l.first = now;
        else
          l.gap = std::max(l.gap, now - l.last);
        l.last = now;
      }
    }
  }

  int fd_ = -1;
  std::mutex mutex_;
  std::map<std::string, Line> lines_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

/// Sends frames at eth0, round after round until the end of scope.
class Sender {
 public:
  Sender(const Netns& from, std::vector<std::vector<std::uint8_t>> frames) : frames_(std::move(frames)), wire_(from) {
    thread_ = std::thread([this] {
      for (; !stop_; ++rounds)
        for (const auto& f : frames_) wire_.send("eth0", f);
    });
  }
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;
  ~Sender() {
    stop_ = true;
    thread_.join();
  }
  /// So many rounds more.
  testing::AssertionResult goes_on(long more = 200) {
    const auto until = rounds + more;
    return eventually("rounds of packets", [&] { return rounds > until; });
  }
  std::atomic<long> rounds = 0;

 private:
  std::vector<std::vector<std::uint8_t>> frames_;
  FrameSocket wire_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

/// UDP, sent to the next hop's interface.
struct Udp {
  Mac src_mac, dst_mac;
  std::string src, dst;
  std::uint16_t port;
};
inline std::vector<std::uint8_t> udp_frame(const Udp& u) {
  model::Packet p;
  p.src = *Ip::parse(u.src);
  p.dst = *Ip::parse(u.dst);
  p.protocol = 17;
  p.src_port = 4000;
  p.dst_port = u.port;
  return frame({.src_mac = u.src_mac, .dst_mac = u.dst_mac, .packet = p, .number = 0});
}
inline Mac mac_of(const Netns& ns, const std::string& interface) {
  auto text = ns.run("cat /sys/class/net/" + interface + "/address");
  text.resize(17);
  return *Mac::parse(text);
}
/// From a VM, through its interface of the host.
inline std::vector<std::uint8_t> udp_frame(const Bench& b, const Vm& from, const std::string& to, std::uint16_t port) {
  return udp_frame({*Mac::parse(from.mac), mac_of(b.host, from.tap), is_v6(to) ? from.ip6 : from.ip, to, port});
}
/// Who has `target`? With a sender's MAC that may be another's.
inline std::vector<std::uint8_t> arp_frame(const std::string& mac, const std::string& ip, const std::string& target) {
  std::vector<std::uint8_t> out(6, 0xff);
  const auto own = *Mac::parse(mac);
  const auto add = [&](const Mac& m) { out.insert(out.end(), m.b.begin(), m.b.end()); };
  add(own);
  for (const unsigned word : {0x0806U, 1U, 0x0800U, 0x0604U, 1U}) frames::be16(out, word);
  add(own);
  frames::address(out, *Ip::parse(ip));
  add(Mac{});
  frames::address(out, *Ip::parse(target));
  return out;
}

}  // namespace calico::test
