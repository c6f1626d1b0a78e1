#include "core/http/message.hpp"

#include <algorithm>
#include <charconv>

namespace calico::http {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

bool same_name(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return lower(x) == lower(y); });
}

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool plain_host(std::string_view host) {
  return !host.empty() && host.size() <= 255 && std::ranges::all_of(host, [](char c) {
    return (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
  });
}

}  // namespace

std::optional<std::string_view> Headers::get(std::string_view name) const {
  for (const auto& [n, v] : fields_)
    if (same_name(n, name)) return v;
  return std::nullopt;
}

void Headers::set(std::string_view name, std::string value) {
  erase(name);
  fields_.emplace_back(name, std::move(value));
}

void Headers::erase(std::string_view name) {
  std::erase_if(fields_, [name](const auto& f) { return same_name(f.first, name); });
}

Result<Endpoint> Endpoint::parse(std::string_view text, std::uint16_t default_port) {
  Endpoint e;
  std::string_view rest = text;
  if (rest.starts_with("unix:")) {
    e.unix_path = rest.substr(5);
    if (e.unix_path.starts_with("//")) e.unix_path.erase(0, 2);
    // sockaddr_un has 108 bytes with the closing zero.
    if (!e.unix_path.starts_with('/') || e.unix_path.size() > 107 || e.unix_path.find('\0') != std::string::npos)
      return fail(Errc::invalid, "'{}': not an absolute path of at most 107 characters", text);
    return e;
  }
  if (rest.starts_with("https://")) {
    e.tls = true;
    rest.remove_prefix(8);
  } else if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
  }
  if (rest.ends_with('/')) rest.remove_suffix(1);
  std::string_view port;
  if (rest.starts_with('[')) {
    const auto close = rest.find(']');
    if (close == std::string_view::npos) return fail(Errc::invalid, "'{}': no closing bracket", text);
    e.host = rest.substr(1, close - 1);
    const auto ip = Ip::parse(e.host);
    if (!ip || !ip->is_v6()) return fail(Errc::invalid, "'{}': no IPv6 address in the brackets", text);
    e.host = ip->to_string();
    rest.remove_prefix(close + 1);
    if (!rest.empty() && !rest.starts_with(':')) return fail(Errc::invalid, "'{}': text after the bracket", text);
    if (!rest.empty()) port = rest.substr(1);
    if (!rest.empty() && port.empty()) return fail(Errc::invalid, "'{}': empty port", text);
  } else {
    const auto colon = rest.find(':');
    e.host = rest.substr(0, colon);
    if (colon != std::string_view::npos) {
      port = rest.substr(colon + 1);
      if (port.empty()) return fail(Errc::invalid, "'{}': empty port", text);
    }
    if (!plain_host(e.host))
      return fail(Errc::invalid, "'{}': not an endpoint (example: https://192.168.0.2:2379)", text);
  }
  if (port.empty()) {
    if (default_port == 0) return fail(Errc::invalid, "'{}': the port is missing", text);
    e.port = default_port;
    return e;
  }
  const auto [end, ec] = std::from_chars(port.data(), port.data() + port.size(), e.port);
  if (ec != std::errc() || end != port.data() + port.size())
    return fail(Errc::invalid, "'{}': the port is not a number of 0 to 65535", text);
  return e;
}

std::optional<Ip> Endpoint::ip() const {
  auto ip = Ip::parse(host);
  if (!ip) return std::nullopt;
  return *ip;
}

std::string Endpoint::to_string() const {
  if (is_unix()) return "unix:" + unix_path;
  const bool v6 = host.find(':') != std::string::npos;
  return fmt::format("{}://{}{}{}:{}", tls ? "https" : "http", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

std::string Peer::to_string() const {
  if (uid) return fmt::format("uid={} pid={}", *uid, pid.value_or(0));
  std::string where = "unknown";
  if (ip) where = ip->is_v6() ? fmt::format("[{}]:{}", *ip, port) : fmt::format("{}:{}", *ip, port);
  return common_name.empty() ? where : fmt::format("cn={} {}", common_name, where);
}

Result<std::string> percent_decode(std::string_view text, bool plus) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      const int hi = i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
      const int lo = i + 2 < text.size() ? hex_value(text[i + 2]) : -1;
      if (hi < 0 || lo < 0) return fail(Errc::invalid, "bad percent escape at {}", i);
      c = static_cast<char>(hi * 16 + lo);
      i += 2;
    } else if (c == '+' && plus) {
      c = ' ';
    }
    if (c == '\0') return fail(Errc::invalid, "zero byte at {}", i);
    out.push_back(c);
  }
  return out;
}

std::string percent_encode(std::string_view text) {
  std::string out;
  for (char c : text) {
    if ((lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~')
      out.push_back(c);
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

std::optional<std::string_view> Request::param(std::string_view name) const {
  for (const auto& [n, v] : query)
    if (n == name) return v;
  return std::nullopt;
}

Response Response::json(unsigned status, std::string body) {
  Response r;
  r.status = status;
  r.headers.set("Content-Type", "application/json");
  r.body = std::move(body);
  return r;
}

Response Response::text(unsigned status, std::string body) {
  Response r;
  r.status = status;
  r.headers.set("Content-Type", "text/plain; charset=utf-8");
  r.body = std::move(body);
  return r;
}

}  // namespace calico::http
