#include "modules/controller/input.hpp"

#include <boost/json.hpp>
#include <charconv>

namespace calico::controller {

namespace {

bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

bool empty_value(const json::value& v) {
  return v.is_null() || (v.is_string() && v.get_string().empty()) || (v.is_array() && v.get_array().empty()) ||
         (v.is_object() && v.get_object().empty());
}

}  // namespace

Reply<json::object> parse_body(std::string_view text) {
  if (text.size() > kMaxBody)
    return refuse(413, "HTTPRequestEntityTooLarge", "The body is {} bytes; the limit is {}.", text.size(), kMaxBody);
  json::parse_options options;
  options.max_depth = kMaxJsonDepth;
  boost::system::error_code error;
  json::value value = json::parse({text.data(), text.size()}, error, {}, options);
  if (error)
    return refuse(400, "MalformedRequestBody", "Malformed request body: not valid JSON ({}).", error.message());
  if (!value.is_object())
    return refuse(400, "MalformedRequestBody", "Malformed request body: a JSON object is expected.");
  return std::move(value.get_object());
}

bool is_uuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (i == 8 || i == 13 || i == 18 || i == 23) {
      if (text[i] != '-') return false;
    } else if (!is_hex(text[i])) {
      return false;
    }
  }
  return true;
}

std::string shown(const json::value& v) {
  std::string text = v.is_string() ? "'" + std::string(v.get_string()) + "'" : json::serialize(v);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  if (text.size() > 64) {
    text.resize(61);
    // Not in the middle of a UTF-8 sequence.
    while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xC0U) == 0x80U) text.pop_back();
    if (!text.empty() && static_cast<unsigned char>(text.back()) >= 0xC0U) text.pop_back();
    text += "...";
  }
  return text;
}

const json::value* Body::get(std::string_view key) {
  known_.emplace(key);
  return object_.if_contains({key.data(), key.size()});
}

void Body::invalid(std::string_view key, std::string_view reason) {
  fail({400, "HTTPBadRequest", fmt::format("Invalid input for {}. Reason: {}.", key, reason)});
}

std::optional<std::string> Body::text(std::string_view key, std::size_t max) {
  const auto* v = get(key);
  if (!v || v->is_null()) return std::nullopt;
  if (!v->is_string()) {
    invalid(key, shown(*v) + " is not a valid string");
    return std::nullopt;
  }
  std::string s(v->get_string());
  if (s.find('\0') != std::string::npos) {
    invalid(key, "a zero character is not allowed");
    return std::nullopt;
  }
  std::size_t characters = 0;
  for (char c : s) characters += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  if (characters > max) {
    invalid(key, fmt::format("{} exceeds maximum length of {}", shown(*v), max));
    return std::nullopt;
  }
  return s;
}

std::optional<bool> Body::boolean(std::string_view key) {
  const auto* v = get(key);
  if (!v || v->is_null()) return std::nullopt;
  if (v->is_bool()) return v->get_bool();
  if (v->is_int64() && (v->get_int64() == 0 || v->get_int64() == 1)) return v->get_int64() == 1;
  if (v->is_string()) {
    auto s = lower(v->get_string());
    if (s == "true" || s == "1") return true;
    if (s == "false" || s == "0") return false;
  }
  invalid(key, shown(*v) + " is not boolean");
  return std::nullopt;
}

std::optional<std::int64_t> Body::integer(std::string_view key, std::int64_t min, std::int64_t max) {
  const auto* v = get(key);
  if (!v || v->is_null()) return std::nullopt;
  std::optional<std::int64_t> n;
  if (v->is_int64()) {
    n = v->get_int64();
  } else if (v->is_string()) {
    const auto& s = v->get_string();
    std::int64_t parsed = 0;
    auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), parsed);
    if (error == std::errc{} && end == s.data() + s.size()) n = parsed;
  }
  if (!n) {
    invalid(key, shown(*v) + " is not an integer");
    return std::nullopt;
  }
  if (*n < min || *n > max) {
    invalid(key, fmt::format("{} is not in the range {} to {}", shown(*v), min, max));
    return std::nullopt;
  }
  return n;
}

std::optional<std::string> Body::uuid(std::string_view key) {
  const auto* v = get(key);
  if (!v || v->is_null()) return std::nullopt;
  if (!v->is_string() || !is_uuid(v->get_string())) {
    invalid(key, shown(*v) + " is not a valid UUID");
    return std::nullopt;
  }
  return lower(v->get_string());
}

std::optional<Ip> Body::ip(std::string_view key) {
  const auto* v = get(key);
  if (!v || v->is_null()) return std::nullopt;
  if (v->is_string()) {
    if (auto parsed = Ip::parse(v->get_string())) return *parsed;
  }
  invalid(key, shown(*v) + " is not a valid IP address");
  return std::nullopt;
}

std::optional<Mac> Body::mac(std::string_view key) {
  const auto* v = get(key);
  if (!v || v->is_null()) return std::nullopt;
  if (v->is_string()) {
    auto parsed = Mac::parse(v->get_string());
    if (parsed && (parsed->b[0] & 1U) == 0 && *parsed != Mac{}) return *parsed;
  }
  invalid(key, shown(*v) + " is not a valid MAC address");
  return std::nullopt;
}

std::optional<std::string> Body::one_of(std::string_view key, std::initializer_list<std::string_view> values) {
  const auto* v = get(key);
  if (!v || v->is_null()) return std::nullopt;
  std::string accepted;
  for (auto value : values) {
    if (v->is_string() && std::string_view(v->get_string()) == value) return std::string(value);
    accepted += accepted.empty() ? "" : ", ";
    accepted += value;
  }
  invalid(key, fmt::format("{} is not in [{}]", shown(*v), accepted));
  return std::nullopt;
}

std::optional<std::vector<std::string>> Body::texts(std::string_view key, std::size_t max) {
  const auto* v = get(key);
  if (!v) return std::nullopt;
  std::vector<std::string> out;
  if (v->is_null()) return out;
  if (!v->is_array() || v->get_array().size() > max) {
    invalid(key, fmt::format("{} is not a list of at most {} elements", shown(*v), max));
    return std::nullopt;
  }
  for (const auto& element : v->get_array()) {
    if (!element.is_string() || element.get_string().size() > 255) {
      invalid(key, shown(element) + " is not a valid string");
      return std::nullopt;
    }
    out.emplace_back(element.get_string());
  }
  return out;
}

std::optional<std::vector<std::string>> Body::uuids(std::string_view key, std::size_t max) {
  auto out = texts(key, max);
  if (!out) return out;
  std::set<std::string> seen;
  for (auto& id : *out) {
    if (!is_uuid(id)) {
      invalid(key, fmt::format("'{}' is not a valid UUID", id.substr(0, 64)));
      return std::nullopt;
    }
    id = lower(id);
    if (!seen.insert(id).second) {
      invalid(key, fmt::format("duplicate items in the list: '{}'", id));
      return std::nullopt;
    }
  }
  return out;
}

std::optional<std::vector<const json::object*>> Body::objects(std::string_view key, std::size_t max) {
  const auto* v = get(key);
  if (!v) return std::nullopt;
  std::vector<const json::object*> out;
  if (v->is_null()) return out;
  if (!v->is_array() || v->get_array().size() > max) {
    invalid(key, fmt::format("{} is not a list of at most {} elements", shown(*v), max));
    return std::nullopt;
  }
  for (const auto& element : v->get_array()) {
    if (!element.is_object()) {
      invalid(key, shown(element) + " is not an object");
      return std::nullopt;
    }
    out.push_back(&element.get_object());
  }
  return out;
}

std::optional<std::string> Body::project() {
  if (verb_ == Verb::put) {
    not_on_put({"project_id", "tenant_id"});
    return std::nullopt;
  }
  auto id = text("project_id", 255);
  auto tenant = text("tenant_id", 255);
  if (id && tenant && *id != *tenant) invalid("tenant_id", "it differs from project_id");
  if (!id) id = tenant;
  if (id && *id != caller_.project && !caller_.admin)
    fail({403, "PolicyNotAuthorized",
          fmt::format("rule:create_{} is disallowed by policy for another project.", resource_)});
  if (!id && caller_.project.empty())
    fail({400, "HTTPBadRequest", "This caller has no project; project_id must be given."});
  return id ? id : caller_.project;
}

void Body::required(std::initializer_list<std::string_view> keys) {
  if (verb_ != Verb::post) return;
  for (auto key : keys) {
    const auto* v = get(key);
    if (!v || v->is_null())
      fail(
          {400, "HTTPBadRequest", fmt::format("Failed to parse request. Required attribute '{}' not specified.", key)});
  }
}

void Body::read_only(std::initializer_list<std::string_view> keys) {
  for (auto key : keys) {
    if (!get(key)) continue;
    if (verb_ == Verb::put)
      fail({400, "HTTPBadRequest", fmt::format("Cannot update read-only attribute {}.", key)});
    else
      fail({400, "HTTPBadRequest", fmt::format("Attribute '{}' not allowed in POST.", key)});
  }
}

void Body::not_on_put(std::initializer_list<std::string_view> keys) {
  if (verb_ != Verb::put) return;
  read_only(keys);
}

void Body::admin_only(std::initializer_list<std::string_view> keys) {
  if (caller_.admin) return;
  for (auto key : keys) {
    if (get(key))
      fail({403, "PolicyNotAuthorized",
            fmt::format("rule:{}_{}:{} is disallowed by policy.", verb_ == Verb::post ? "create" : "update", resource_,
                        key)});
  }
}

void Body::not_provided(std::initializer_list<std::string_view> keys) {
  for (auto key : keys) {
    const auto* v = get(key);
    if (v && !empty_value(*v)) invalid(key, "this controller does not provide it");
  }
}

std::optional<ApiError> Body::finish() {
  for (const auto& member : object_) {
    if (known_.contains(std::string_view(member.key()))) continue;
    fail({400, "HTTPBadRequest", fmt::format("Unrecognized attribute(s) {}.", shown(json::value(member.key())))});
    break;
  }
  return fault_;
}

Result<Prefix> parse_cidr(std::string_view text, bool bare) {
  auto slash = text.find('/');
  auto ip = Ip::parse(text.substr(0, slash));
  if (!ip) return wrap(ip.error(), "address");
  if (slash == std::string_view::npos) {
    if (!bare) return fail(Errc::invalid, "no prefix length");
    return Prefix::host(*ip);
  }
  auto digits = text.substr(slash + 1);
  unsigned len = 0;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), len);
  if (digits.empty() || digits.size() > 3 || error != std::errc{} || end != digits.data() + digits.size() ||
      len > ip->bits())
    return fail(Errc::invalid, "prefix length not in 0 to {}", ip->bits());
  return Prefix{*ip, static_cast<std::uint8_t>(len)};
}

}  // namespace calico::controller
