#include "core/wire/base64.hpp"

#include <algorithm>
#include <array>
#include <cstdint>

namespace calico::wire {
namespace {
constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<std::int8_t, 256> kValues = [] {
  std::array<std::int8_t, 256> v{};
  for (auto& x : v) x = -1;
  for (std::size_t i = 0; i < kAlphabet.size(); ++i)
    v[static_cast<unsigned char>(kAlphabet[i])] = static_cast<std::int8_t>(i);
  return v;
}();
}  // namespace

std::string base64_encode(std::string_view bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t n = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t v = 0;
    for (std::size_t j = 0; j < 3; ++j) v = v << 8 | (j < n ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    for (std::size_t j = 0; j < 4; ++j) out.push_back(j <= n ? kAlphabet[v >> (18 - 6 * j) & 63] : '=');
  }
  return out;
}

Result<std::string> base64_decode(std::string_view text) {
  if (text.size() % 4 != 0) return fail(Errc::invalid, "base64: {} characters, not a multiple of 4", text.size());
  std::string out;
  out.reserve(text.size() / 4 * 3);
  for (std::size_t i = 0; i < text.size(); i += 4) {
    std::size_t n = 4;  // characters that carry bits
    if (i + 4 == text.size()) {
      if (text[i + 3] == '=') n = text[i + 2] == '=' ? 2 : 3;
    }
    std::uint32_t v = 0;
    for (std::size_t j = 0; j < 4; ++j) {
      const int bits = j < n ? kValues[static_cast<unsigned char>(text[i + j])] : 0;
      if (bits < 0) return fail(Errc::invalid, "base64: bad character at {}", i + j);
      v = v << 6 | static_cast<std::uint32_t>(bits);
    }
    const std::uint32_t unused = n == 2 ? 0xffffU : n == 3 ? 0xffU : 0U;
    if ((v & unused) != 0) return fail(Errc::invalid, "base64: unused bits set at the end");
    for (std::size_t j = 0; j + 1 < n; ++j) out.push_back(static_cast<char>(v >> (16 - 8 * j) & 0xff));
  }
  return out;
}

}  // namespace calico::wire
