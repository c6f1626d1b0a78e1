#pragma once
/// Standard base64 (RFC 4648 section 4), as etcd's JSON gateway writes bytes. Strict: padding is required, no white
/// space, no foreign character, unused bits zero.
#include <string>
#include <string_view>

#include "core/base/error.hpp"

namespace calico::wire {

[[nodiscard]] std::string base64_encode(std::string_view bytes);
/// Errors: invalid.
[[nodiscard]] Result<std::string> base64_decode(std::string_view text);

}  // namespace calico::wire
