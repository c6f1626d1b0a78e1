#pragma once
/// What an operator carries from the controller to a node: one string with a secret and the pin of the CA.
///
///   cn1.9f86d081884c7d65.0c3e…(32 digits).5994471a…(64 digits)
///       id               secret           SHA-256 of the CA's public key
///
/// The id finds the token, the secret proves it (the controller keeps only its hash), and the pin lets a node that
/// knows nothing yet tell the controller from somebody in between.
///
/// Thread: any, pure. Errors: invalid, one line that never repeats the secret.
#include <string>
#include <string_view>

#include "core/base/error.hpp"

namespace calico::membership {

struct Token {
  std::string id;       ///< 16 hexadecimal digits
  std::string secret;   ///< 32; never printed or logged but by `join token`
  std::string ca_hash;  ///< 64
};

/// id and secret of a new one. Errors: internal (no randomness).
[[nodiscard]] Result<Token> make_token(std::string ca_hash);
[[nodiscard]] std::string to_string(const Token& token);
[[nodiscard]] Result<Token> parse_token(std::string_view text);
[[nodiscard]] bool is_token_id(std::string_view text);
/// What is kept of a secret: its SHA-256, hexadecimal.
[[nodiscard]] std::string hash_secret(std::string_view secret);
/// Takes the same time whatever differs.
[[nodiscard]] bool same_secret(std::string_view a, std::string_view b);

[[nodiscard]] std::string to_hex(std::string_view bytes);
/// Lower-case digits only, exactly `digits` of them.
[[nodiscard]] bool is_hex(std::string_view text, std::size_t digits);

/// A node's name in a certificate: lower-case letters, digits, '-' and '.', each part between dots beginning and ending
/// with a letter or digit, at most 64 characters in all (the bound X.509 has for a common name).
[[nodiscard]] Status check_node_name(std::string_view name);

}  // namespace calico::membership
