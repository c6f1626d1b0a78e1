#pragma once
/// Bounded cursors over bytes: Reader takes, Writer appends. Both are sticky: after the first fault everything read is
/// zero (Reader) or nothing more is appended (Writer), and ok() tells once at the end. Used by every codec, so that no
/// length field of a peer is trusted and no pointer arithmetic appears in a decoder.
///
///   Reader r(packet);
///   auto type = r.be<std::uint8_t>();
///   Reader body = r.sub(r.be<std::uint16_t>());
///   if (!body.ok() || body.left() != 0) return fail(...);
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace calico::wire {

using Bytes = std::vector<std::byte>;
using View = std::span<const std::byte>;

inline View as_bytes(std::string_view s) { return std::as_bytes(std::span(s.data(), s.size())); }
inline std::string_view as_text(View b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }

/// Reads big-endian numbers and sub-ranges. Owns nothing; the bytes outlive it.
class Reader {
 public:
  explicit Reader(View b) : b_(b) {}
  std::size_t left() const { return b_.size(); }
  bool ok() const { return !bad_; }
  void set_bad() { bad_ = true, b_ = {}; }
  View rest() { return take(left()); }
  View take(std::size_t n) {
    if (bad_ || n > b_.size()) {
      set_bad();
      return {};
    }
    auto s = b_.first(n);
    b_ = b_.subspan(n);
    return s;
  }
  template <std::unsigned_integral T>
  T be() {
    std::uint64_t v = 0;
    for (auto x : take(sizeof(T))) v = v << 8 | std::to_integer<std::uint64_t>(x);
    return static_cast<T>(v);
  }
  /// The next n bytes as a reader of their own (a TLV body); bad if they are not there.
  Reader sub(std::size_t n) {
    Reader r(take(n));
    r.bad_ = bad_;
    return r;
  }

 private:
  View b_;
  bool bad_ = false;
};

/// Appends big-endian numbers to a buffer with a size cap; refuses values that do not fit. Lengths are patched by mark.
class Writer {
 public:
  explicit Writer(std::size_t cap) : cap_(cap) {}
  bool ok() const { return !bad_; }
  std::size_t size() const { return b_.size(); }
  void put(View bytes);
  /// Appends `v` in T's width; a value that does not fit marks the writer bad.
  template <std::unsigned_integral T>
  void be(std::uint64_t v) {
    if (sizeof(T) < 8 && v >> (8 * sizeof(T) % 64) != 0) bad_ = true;
    put_be(v, sizeof(T));
  }
  /// Reserves a big-endian field of `width` bytes (1, 2 or 4) to be patched by close().
  struct Mark {
    std::size_t at;
    std::size_t width;
  };
  Mark open(std::size_t width);
  /// Writes the number of bytes appended since open() into the mark.
  void close(Mark m);
  /// Overwrites a big-endian field that was written before.
  void patch(std::size_t at, std::uint64_t v, std::size_t width);
  View view() const { return b_; }
  Bytes take() { return std::move(b_); }

 private:
  void put_be(std::uint64_t v, std::size_t width);
  Bytes b_;
  std::size_t cap_;
  bool bad_ = false;
};

}  // namespace calico::wire
