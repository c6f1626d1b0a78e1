#include "core/membership/token.hpp"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <array>

namespace calico::membership {
namespace {

constexpr std::string_view kMark = "cn1";
constexpr std::size_t kIdDigits = 16, kSecretDigits = 32, kHashDigits = 64;
constexpr std::size_t kNameBytes = 64;

bool is_alnum(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

}  // namespace

std::string to_hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    const auto b = static_cast<unsigned char>(c);
    out += kDigits[b >> 4];
    out += kDigits[b & 15];
  }
  return out;
}

bool is_hex(std::string_view text, std::size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool is_token_id(std::string_view text) { return is_hex(text, kIdDigits); }

Result<Token> make_token(std::string ca_hash) {
  std::array<char, (kIdDigits + kSecretDigits) / 2> bytes{};
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), bytes.size()) != 1)
    return fail(Errc::internal, "token: the system gives no randomness");
  const auto digits = to_hex({bytes.data(), bytes.size()});
  return Token{digits.substr(0, kIdDigits), digits.substr(kIdDigits), std::move(ca_hash)};
}

std::string to_string(const Token& token) {
  return fmt::format("{}.{}.{}.{}", kMark, token.id, token.secret, token.ca_hash);
}

Result<Token> parse_token(std::string_view text) {
  static constexpr std::size_t kSecretAt = kMark.size() + 1 + kIdDigits + 1;
  static constexpr std::size_t kHashAt = kSecretAt + kSecretDigits + 1;
  const bool shape = text.size() == kHashAt + kHashDigits && text.starts_with(kMark) && text[kMark.size()] == '.' &&
                     text[kSecretAt - 1] == '.' && text[kHashAt - 1] == '.';
  if (shape) {
    Token t{std::string(text.substr(kMark.size() + 1, kIdDigits)), std::string(text.substr(kSecretAt, kSecretDigits)),
            std::string(text.substr(kHashAt))};
    if (is_hex(t.id, kIdDigits) && is_hex(t.secret, kSecretDigits) && is_hex(t.ca_hash, kHashDigits)) return t;
  }
  return fail(Errc::invalid,
              "not a join token: the whole line that `calico-node join token` printed is needed, {} characters that "
              "begin with {}.",
              kHashAt + kHashDigits, kMark);
}

std::string hash_secret(std::string_view secret) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(secret.data()), secret.size(), digest.data());
  return to_hex({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

bool same_secret(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Status check_node_name(std::string_view name) {
  bool good = !name.empty() && is_alnum(name.front()) && is_alnum(name.back());
  for (std::size_t i = 0; good && i < name.size(); ++i) {
    good = is_alnum(name[i]) || name[i] == '-' || name[i] == '.';
    if (name[i] == '.') good = good && is_alnum(name[i - 1]) && is_alnum(name[i + 1]);
  }
  if (!good)
    return fail(Errc::invalid,
                "node name: lower-case letters, digits, '-' and '.' are accepted, as in a host name; set [node] name");
  if (name.size() > kNameBytes)
    return fail(Errc::invalid, "node name: has {} characters, a certificate's name has at most {}", name.size(),
                kNameBytes);
  return {};
}

}  // namespace calico::membership
