#pragma once
/// Netlink bytes: MessageBuilder appends messages and attributes to one buffer, Attrs walks received ones. Pure; shared
/// by rtnetlink (core/netlink) and nf_tables (core/nft). The kernel's answers are read as carefully as a peer's: an
/// attribute that does not fit its frame ends the walk, a number read from a short attribute is zero.
///
///   MessageBuilder b;
///   b.begin(RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK, seq);
///   b.body(rtmsg{...});
///   b.u32(RTA_OIF, 7);
///   { auto n = b.nest(RTA_METRICS); b.u32(RTAX_MTU, 1450); }   // closed by the destructor
///   b.end();
#include <linux/netlink.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace calico::netlink {

using Bytes = std::vector<std::byte>;
using View = std::span<const std::byte>;

constexpr std::size_t align4(std::size_t n) { return (n + 3U) & ~std::size_t{3}; }

template <class T>
constexpr T to_be(T v) {
  static_assert(std::is_unsigned_v<T>);
  if constexpr (std::endian::native == std::endian::big || sizeof(T) == 1)
    return v;
  else if constexpr (sizeof(T) == 2)
    return __builtin_bswap16(v);
  else if constexpr (sizeof(T) == 4)
    return __builtin_bswap32(v);
  else
    return __builtin_bswap64(v);
}

/// Thread: any. Owns: the buffer. Errors: an attribute above 65535 bytes makes ok() false; the caller must look before
/// it sends (the length field of netlink has 16 bits).
class MessageBuilder {
 public:
  /// Starts a message; the former one must be ended.
  void begin(std::uint16_t type, std::uint16_t flags, std::uint32_t seq);
  /// Patches the length. Returns the message's size.
  std::size_t end();
  template <class T>
  void body(const T& fixed) {
    static_assert(std::is_trivially_copyable_v<T>);
    append(&fixed, sizeof fixed);
    pad();
  }

  void attr(std::uint16_t type, View value);
  void attr(std::uint16_t type, const void* p, std::size_t n) { attr(type, View(static_cast<const std::byte*>(p), n)); }
  /// Bytes as they are, padded (parts of a body made elsewhere).
  void raw(View bytes) {
    append(bytes.data(), bytes.size());
    pad();
  }
  void flag(std::uint16_t type) { attr(type, View{}); }
  void u8(std::uint16_t type, std::uint8_t v) { attr(type, &v, sizeof v); }
  void u16(std::uint16_t type, std::uint16_t v) { attr(type, &v, sizeof v); }
  void u32(std::uint16_t type, std::uint32_t v) { attr(type, &v, sizeof v); }
  void be16(std::uint16_t type, std::uint16_t v) { u16(type, to_be(v)); }
  void be32(std::uint16_t type, std::uint32_t v) { u32(type, to_be(v)); }
  void be64(std::uint16_t type, std::uint64_t v) {
    v = to_be(v);
    attr(type, &v, sizeof v);
  }
  /// Zero-terminated.
  void str(std::uint16_t type, std::string_view s);

  /// An open nested attribute; close() or the destructor patches its length.
  class Nest {
   public:
    Nest(MessageBuilder& b, std::size_t at) : b_(&b), at_(at) {}
    Nest(Nest&& o) noexcept : b_(std::exchange(o.b_, nullptr)), at_(o.at_) {}
    Nest& operator=(Nest&&) = delete;
    ~Nest() { close(); }
    void close();
    /// Bytes inside so far.
    std::size_t size() const;

   private:
    MessageBuilder* b_;
    std::size_t at_;
  };
  [[nodiscard]] Nest nest(std::uint16_t type);

  bool ok() const { return !bad_; }
  std::size_t size() const { return b_.size(); }
  View view() const { return b_; }
  void clear();
  /// Drops what was appended since the message at `at` began (a message that turned out not to be needed).
  void truncate(std::size_t at) { b_.resize(at); }

 private:
  void append(const void* p, std::size_t n);
  void pad();
  Bytes b_;
  std::size_t message_at_ = 0;
  bool bad_ = false;
};

/// One received attribute; lives as long as the bytes it was read from.
struct Attr {
  std::uint16_t type = 0;  ///< without the NESTED and BYTEORDER bits
  View data;

  std::uint8_t u8() const { return number<std::uint8_t>(); }
  std::uint16_t u16() const { return number<std::uint16_t>(); }
  std::uint32_t u32() const { return number<std::uint32_t>(); }
  std::uint64_t u64() const { return number<std::uint64_t>(); }
  std::uint16_t be16() const { return to_be(u16()); }
  std::uint32_t be32() const { return to_be(u32()); }
  std::uint64_t be64() const { return to_be(u64()); }
  /// Up to the first zero byte.
  std::string_view str() const;

 private:
  template <class T>
  T number() const {
    T v = 0;
    if (data.size() >= sizeof v) std::memcpy(&v, data.data(), sizeof v);
    return v;
  }
};

/// for (Attr a : Attrs(bytes)) ...
class Attrs {
 public:
  explicit Attrs(View b) : b_(b) {}
  class Iterator {
   public:
    Iterator() = default;
    explicit Iterator(View b) : left_(b) { read(); }
    const Attr& operator*() const { return attr_; }
    const Attr* operator->() const { return &attr_; }
    Iterator& operator++() {
      read();
      return *this;
    }
    bool operator!=(const Iterator& o) const { return done_ != o.done_; }

   private:
    void read();
    View left_;
    Attr attr_;
    bool done_ = true;
  };
  Iterator begin() const { return Iterator(b_); }
  Iterator end() const { return {}; }
  /// The first attribute of this type; `data` is null when there is none.
  Attr find(std::uint16_t type) const;
  bool has(std::uint16_t type) const { return find(type).data.data() != nullptr; }

 private:
  View b_;
};

/// One received message; lives as long as the buffer.
struct Message {
  std::uint16_t type = 0;
  std::uint16_t flags = 0;
  std::uint32_t seq = 0;
  std::uint32_t pid = 0;
  View payload;  ///< after nlmsghdr

  /// The fixed body; zeroes when the message is shorter.
  template <class T>
  T body() const {
    static_assert(std::is_trivially_copyable_v<T>);
    T v{};
    if (payload.size() >= sizeof v) std::memcpy(&v, payload.data(), sizeof v);
    return v;
  }
  template <class T>
  bool fits() const {
    return payload.size() >= sizeof(T);
  }
  Attrs attrs(std::size_t body_size) const {
    const auto n = align4(body_size);
    return Attrs(n <= payload.size() ? payload.subspan(n) : View{});
  }
};

/// Calls f(const Message&) for each message in a received buffer; stops at the first that does not fit.
template <class F>
void for_each_message(View buffer, F&& f) {
  while (buffer.size() >= sizeof(nlmsghdr)) {
    nlmsghdr h{};
    std::memcpy(&h, buffer.data(), sizeof h);
    if (h.nlmsg_len < sizeof h || h.nlmsg_len > buffer.size()) return;
    Message m{h.nlmsg_type, h.nlmsg_flags, h.nlmsg_seq, h.nlmsg_pid, buffer.subspan(sizeof h, h.nlmsg_len - sizeof h)};
    f(std::as_const(m));
    buffer = buffer.subspan(std::min<std::size_t>(align4(h.nlmsg_len), buffer.size()));
  }
}

}  // namespace calico::netlink
