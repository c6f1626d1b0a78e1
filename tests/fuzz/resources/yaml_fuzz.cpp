// Files of users: read or refused in one printable line; what is read is written in YAML that reads back as it was, and
// every fault of a manifest is one line.
#include <boost/json.hpp>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/resources/manifest.hpp"
#include "core/resources/yaml.hpp"

using namespace calico;
using namespace calico::resources;

namespace {

void one_line(std::string_view text) {
  if (text.empty()) std::abort();
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 64 * 1024) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto docs = read_yaml(text);
  if (!docs) {
    one_line(docs.error().what);
  } else {
    for (const auto& d : *docs) {
      (void)line_of(d, "spec.ingress[0].source");
      const auto again = read_yaml(to_yaml(d.value));
      if (!again || again->size() != 1 || !same_value(again->front().value, d.value)) std::abort();
    }
  }
  Manifest m;
  read_manifest("f", text, {.default_namespace = "openstack"}, m);
  check_duplicates(m);
  for (const auto& f : m.faults) one_line(f.to_string());
  for (const auto& i : m.items)
    if (!i.kind || i.key.find(i.kind->plural) == std::string::npos || i.name.find('/') != std::string::npos)
      std::abort();
  return 0;
}
