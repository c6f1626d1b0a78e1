#include "modules/felix/failsafe.hpp"

#include <boost/json.hpp>
#include <charconv>
#include <string>

namespace calico::felix {
namespace {

namespace json = boost::json;
constexpr std::size_t kMax = 256;
constexpr std::size_t kMaxText = 32768;

std::string_view trimmed(std::string_view s) {
  const auto first = s.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return s.substr(first, s.find_last_not_of(" \t") - first + 1);
}

std::string lower(std::string_view s) {
  std::string out(s);
  for (auto& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

Result<Failsafe> one(std::string_view protocol, std::string_view net, std::string_view port, std::string_view whole) {
  const auto bad = [&] {
    return fail(Errc::invalid, "{}: accepted: protocol:port or protocol:net:port, of tcp or udp, or none",
                quoted(whole));
  };
  Failsafe f;
  const auto p = lower(protocol);
  if (p != "tcp" && p != "udp") return bad();
  f.protocol = p == "tcp" ? 6 : 17;
  const auto [end, ec] = std::from_chars(port.data(), port.data() + port.size(), f.port);
  if (ec != std::errc{} || end != port.data() + port.size() || f.port == 0) return bad();
  if (net.starts_with('[') && net.ends_with(']')) net = net.substr(1, net.size() - 2);
  if (net.empty()) return f;
  auto prefix = Prefix::parse(net);
  if (!prefix) return bad();
  if (prefix->len != 0) f.net = prefix->masked();
  return f;
}

Result<std::vector<Failsafe>> from_json(std::string_view text) {
  boost::system::error_code ec;
  const auto v = json::parse(json::string_view(text.data(), text.size()), ec);
  if (ec || !v.is_array()) return fail(Errc::invalid, "need a list of protocol, port and net");
  std::vector<Failsafe> out;
  for (const auto& e : v.get_array()) {
    const auto whole = json::serialize(e);
    std::string protocol = "tcp", net, port;
    const auto* o = e.if_object();
    for (const auto& m : o ? *o : json::object()) {
      const std::string value =
          m.value().is_string() ? std::string(m.value().get_string()) : json::serialize(m.value());
      if (m.key() == "protocol") protocol = value;
      if (m.key() == "port") port = value;
      if (m.key() == "net" && !m.value().is_null()) net = value;
    }
    auto f = one(protocol, net, port, whole);
    if (!f) return tl::unexpected(f.error());
    out.push_back(*f);
    if (out.size() > kMax) return fail(Errc::invalid, "more than {} entries", kMax);
  }
  return out;
}

}  // namespace

Result<std::vector<Failsafe>> parse_failsafe(std::string_view text) {
  text = trimmed(text);
  if (text.size() > kMaxText) return fail(Errc::invalid, "longer than {} characters", kMaxText);
  if (text.empty() || lower(text) == "none") return std::vector<Failsafe>{};
  if (text.starts_with("[{") || text == "[]") return from_json(text);
  std::vector<Failsafe> out;
  while (true) {
    const auto comma = text.find(',');
    const auto word = trimmed(text.substr(0, comma));
    const auto first = word.find(':');
    const auto last = word.rfind(':');
    auto f = first == std::string_view::npos ? one("tcp", "", word, word)
             : first == last
                 ? one(word.substr(0, first), "", word.substr(first + 1), word)
                 : one(word.substr(0, first), word.substr(first + 1, last - first - 1), word.substr(last + 1), word);
    if (!f) return tl::unexpected(f.error());
    out.push_back(*f);
    if (out.size() > kMax) return fail(Errc::invalid, "more than {} entries", kMax);
    if (comma == std::string_view::npos) return out;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace calico::felix
