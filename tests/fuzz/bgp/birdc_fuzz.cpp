// Lines of birdc's protocol, in both layouts: any text is a command or a refusal of printable lines, and what a command
// prints keeps the framing, also when names and errors of peers are hostile. The first byte chooses layout and state.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/bgp/birdc/format.hpp"
#include "core/bgp/birdc/operations.hpp"

using namespace calico;
using namespace calico::bgp;

namespace {

/// One line an answer line, a last line with a code: nothing of the input breaks the framing.
void check(const std::string& text, std::size_t input) {
  if (text.empty() || text.back() != '\n') std::abort();
  // Every line may repeat a name of the input a few times, no more.
  if (text.size() > 40000 + 64 * input) std::abort();
  std::size_t last = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto end = text.find('\n', at);
    const auto one = std::string_view(text).substr(at, end - at);
    if (one.empty() || (one[0] != ' ' && (one.size() < 5 || (one[4] != '-' && one[4] != ' ')))) std::abort();
    for (char c : one)
      if (static_cast<unsigned char>(c) < 0x20 && c != '\t') std::abort();
    last = at;
    at = end + 1;
  }
  if (text[last] == ' ' || text[last + 4] != ' ') std::abort();
}

PeerStatus peer(std::string name, std::uint8_t bits) {
  PeerStatus s;
  s.config.name = name;
  s.config.ipv6 = bits & 1;
  s.disabled = bits & 2;
  s.state = bits & 4 ? PeerState::established : PeerState::active;
  s.v4.negotiated = bits & 8;
  s.gr_active = bits & 16;
  s.last_error = std::move(name);
  s.local.graceful_restart = s.neighbor.graceful_restart = true;
  return s;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bits = data[0];
  const birdc::Shape shape =
      bits & 0x80 ? birdc::Shape{birdc::Layout::bird1, bits & 0x40 ? Family::v6 : Family::v4} : birdc::Shape{};
  const std::string_view line(reinterpret_cast<const char*>(data + 1), size - 1);
  auto command = birdc::parse(line, shape);
  const std::vector<PeerStatus> peers{peer("border-1", bits), peer(std::string(line.substr(0, 300)), bits)};
  birdc::Reply out;
  if (const auto* r = std::get_if<birdc::Refused>(&command)) {
    if (r->code < 8000 || r->code > 9999) std::abort();
    out.end(r->code, r->why);
  } else if (const auto* p = std::get_if<birdc::ShowProtocols>(&command)) {
    birdc::protocols(out, shape, *p, peers, {}, true);
  } else if (const auto* s = std::get_if<birdc::ShowSymbols>(&command)) {
    birdc::symbols(out, shape, *s, peers, true);
  } else if (const auto* o = std::get_if<birdc::Operate>(&command)) {
    if (birdc::allowed_when_restricted(command)) std::abort();
    (void)o->names.fits(line);
    birdc::no_protocol(out, shape, o->names);
  } else if (const auto* c = std::get_if<birdc::ConfigureCommand>(&command)) {
    birdc::configured(out, {std::string(line), {std::string(line)}, {}}, c->check);
  } else if (const auto* q = std::get_if<birdc::ShowRoute>(&command)) {
    RouteInfo route;
    route.peer = q->query.peer.value_or("x");
    if (q->query.exact) route.prefix = *q->query.exact;
    route.unusable = std::string(line);
    route.attributes = {{"BGP.origin", std::string(line)}};
    birdc::RouteLines lines;
    lines.shape = shape;
    lines.add(out, {route, route});
    out.end(0);
  } else {
    return 0;
  }
  check(out.text(), size);
  return 0;
}
