#pragma once
/// Reading a request body, attribute by attribute, with Neutron's checks and error bodies. The first fault sticks; the
/// reader knows which attributes were asked for, so that the rest is refused by name.
///
///   Body in(object, Body::Verb::post, "network", caller);
///   auto name = in.text("name", 255);
///   auto mtu = in.integer("mtu", 68, 65535);
///   in.admin_only("shared");
///   in.read_only({"id", "status"});
///   if (auto fault = in.finish()) return tl::unexpected(*fault);
///
/// Attributes absent give nullopt; null too, unless said otherwise (present() tells them apart).
/// Thread: any. Needs: the object outlives the Body.
#include <boost/json/object.hpp>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/ip.hpp"
#include "modules/controller/errors.hpp"

namespace calico::controller {

namespace json = boost::json;

/// Who asks. Without tokens (loopback or insecure = yes) everybody is an administrator.
struct Caller {
  std::string project;
  bool admin = false;
};

/// Bounded parse of a whole body: one JSON object. Errors: MalformedRequestBody 400.
[[nodiscard]] Reply<json::object> parse_body(std::string_view text);
inline constexpr std::size_t kMaxBody = 1024 * 1024;
inline constexpr std::size_t kMaxJsonDepth = 16;

bool is_uuid(std::string_view text);
/// A value as it appears in messages: cut to 64 characters, strings in quotes.
std::string shown(const json::value& v);

class Body {
 public:
  enum class Verb { post, put };

  Body(const json::object& object, Verb verb, std::string_view resource, const Caller& caller)
      : object_(object), verb_(verb), resource_(resource), caller_(caller) {}

  bool present(std::string_view key) { return get(key) != nullptr; }
  /// The attribute as it came; nullptr when absent. null is a value here.
  const json::value* any(std::string_view key) { return get(key); }
  std::optional<std::string> text(std::string_view key, std::size_t max);
  std::optional<bool> boolean(std::string_view key);
  std::optional<std::int64_t> integer(std::string_view key, std::int64_t min, std::int64_t max);
  std::optional<std::string> uuid(std::string_view key);
  std::optional<Ip> ip(std::string_view key);
  std::optional<Mac> mac(std::string_view key);
  std::optional<std::string> one_of(std::string_view key, std::initializer_list<std::string_view> values);
  /// A list of UUIDs without repeats; null is the empty list.
  std::optional<std::vector<std::string>> uuids(std::string_view key, std::size_t max);
  /// The elements of a list of objects; null is the empty list.
  std::optional<std::vector<const json::object*>> objects(std::string_view key, std::size_t max);
  std::optional<std::vector<std::string>> texts(std::string_view key, std::size_t max);
  /// project_id or tenant_id; only an administrator may name another project than its own. POST only.
  std::optional<std::string> project();

  /// POST: must be there (null counts as absent).
  void required(std::initializer_list<std::string_view> keys);
  /// Never from a client.
  void read_only(std::initializer_list<std::string_view> keys);
  /// PUT: refused; call it before reading.
  void not_on_put(std::initializer_list<std::string_view> keys);
  /// 403 for others than administrators when present with another value than `harmless`.
  void admin_only(std::initializer_list<std::string_view> keys);
  /// Attributes Neutron knows and this controller cannot honour: only null, "" or an empty list or object pass.
  void not_provided(std::initializer_list<std::string_view> keys);

  void fail(ApiError error) {
    if (!fault_) fault_ = std::move(error);
  }
  void invalid(std::string_view key, std::string_view reason);
  /// The first fault, or the refusal of attributes nobody asked for.
  std::optional<ApiError> finish();

 private:
  const json::value* get(std::string_view key);

  const json::object& object_;
  Verb verb_;
  std::string resource_;
  const Caller& caller_;
  std::set<std::string, std::less<>> known_;
  std::optional<ApiError> fault_;
};

/// "10.0.0.0/24", or one address when `bare` is allowed. Host bits are kept as given. Errors: invalid.
[[nodiscard]] Result<Prefix> parse_cidr(std::string_view text, bool bare);

}  // namespace calico::controller
