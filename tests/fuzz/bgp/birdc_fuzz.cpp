// Lines of birdc's protocol: any text is a command or a refusal of one printable line.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/bgp/birdc/format.hpp"

using namespace calico;
using namespace calico::bgp;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  auto command = birdc::parse(line);
  birdc::Reply out;
  if (auto* bad = std::get_if<birdc::Bad>(&command)) {
    out.end(9001, bad->why);
  } else if (auto* p = std::get_if<birdc::ShowProtocols>(&command)) {
    PeerStatus s;
    s.config.name = "border-1";
    birdc::protocols(out, *p, {s}, {}, true);
  } else {
    return 0;
  }
  const auto& text = out.text();
  if (text.empty() || text.back() != '\n') std::abort();
  // One line an answer line: nothing of the input breaks the framing.
  for (std::size_t at = 0; at < text.size();) {
    const auto end = text.find('\n', at);
    const auto one = std::string_view(text).substr(at, end - at);
    if (one.empty() || (one[0] != ' ' && one.size() < 5)) std::abort();
    for (char c : one)
      if (static_cast<unsigned char>(c) < 0x20 && c != '\t') std::abort();
    at = end + 1;
  }
  return 0;
}
