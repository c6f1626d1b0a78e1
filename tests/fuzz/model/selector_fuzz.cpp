// Selectors of policies: read or refused in one line; the canonical text reads back as the same selector, which says
// the same of labels; its hints never hide a match; the index agrees with asking each.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/selector.hpp"

using namespace calico;
using namespace calico::model;

namespace {

void require(bool holds, int line = __builtin_LINE()) {
  if (holds) return;
  std::fprintf(stderr, "the check of line %d does not hold\n", line);
  std::abort();
}

}  // namespace

/// Input: the selector, then lines "label=value" of one item, an empty line before the next item.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 12 * 1024) return 0;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto take_line = [&] {
    const auto end = std::min(text.find('\n'), text.size());
    const auto line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    return line;
  };
  const auto selector = Selector::parse(take_line());
  if (!selector) {
    require(!selector.error().what.empty());
    for (const char c : selector.error().what) require(static_cast<unsigned char>(c) >= 0x20);
    return 0;
  }
  const auto again = Selector::parse(selector->canonical());
  // The canonical spelling may be longer than what a document may hold, never wrong.
  if (selector->canonical().size() <= 8 * 1024) require(again && *again == *selector);
  std::vector<Labels> items(1);
  while (!text.empty() && items.size() < 32) {
    const auto line = take_line();
    if (line.empty()) {
      items.emplace_back();
      continue;
    }
    const auto eq = line.find('=');
    items.back()[std::string(line.substr(0, eq))] = eq == line.npos ? "" : std::string(line.substr(eq + 1));
  }
  SelectorIndex index([](SelectorIndex::SelectorId, SelectorIndex::ItemId, bool) {});
  for (std::uint32_t i = 0; i < items.size(); i += 2) index.set_item(i, items[i]);
  index.add_selector(1, *selector);
  for (std::uint32_t i = 1; i < items.size(); i += 2) index.set_item(i, items[i]);
  for (std::uint32_t i = 0; i < items.size(); ++i) {
    const bool m = selector->matches(items[i]);
    if (again) require(again->matches(items[i]) == m);
    require(index.items_of(1).contains(i) == m);
  }
  return 0;
}
