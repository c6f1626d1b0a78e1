#pragma once
/// Private to core/resources: what a plain YAML scalar means, and whether a text may be written plain.
#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "core/base/error.hpp"

namespace calico::resources {

/// null, true, 12, 1.5 or text; what readers of YAML 1.1 and 1.2 would disagree about is refused. Errors: invalid.
[[nodiscard]] Result<boost::json::value> plain_scalar(std::string_view text);
/// Every reader of YAML takes it, written without quotes, for this text, as key and as value, in any place.
[[nodiscard]] bool is_plain_text(std::string_view text);
/// Bytes of the valid UTF-8 character the text begins with; 0 = none.
[[nodiscard]] std::size_t utf8_length(std::string_view text);

}  // namespace calico::resources
