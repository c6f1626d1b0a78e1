#pragma once
/// What felix keeps in the kernel of a namespace, as text, and as words that compare whatever the order they were made
/// in.
#include <algorithm>
#include <iterator>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/netns.hpp"

namespace calico::test {

/// Everything felix keeps in the kernel: tables, routes, neighbours, groups; handles included.
inline std::string kernel_text(const Netns& host, bool counters = true) {
  std::string text = host.run(
      "nft -a list ruleset | sed -e 's/ progname .*//' -e '/^\tflags/d'; ip -N route show proto 88; ip -N -6 route "
      "show proto 88; ip -N neigh show "
      "nud permanent; ip -N -6 neigh show proxy; ip -o link 2>/dev/null | sed -n 's/.*\\(tap[^@]*\\).* \\(group "
      "[0-9a-z]*\\).*/\\1 \\2/p'");
  if (counters) return text;
  std::string kept;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (const auto at = line.find("counter packets"); at != std::string::npos) {
      const auto end = line.find("bytes ", at);
      line.erase(at, line.find(' ', end + 6) - at + 1);
    }
    kept += line + "\n";
  }
  return kept;
}

/// The same without handles, counters and the connections that were cut, which are the past's. Words, because the
/// elements of a set come several in a line, in any order.
using Words = std::multiset<std::string>;
inline Words kernel_words(const Netns& host) {
  Words out;
  std::istringstream in(kernel_text(host, false));
  bool of_cut = false;
  for (std::string line; std::getline(in, line);) {
    of_cut = (of_cut && !line.starts_with("\t}")) || line.starts_with("\tset cut4 ") || line.starts_with("\tset cut6 ");
    if (of_cut) continue;
    if (const auto at = line.find(" # handle"); at != std::string::npos) line.resize(at);
    std::istringstream words(line);
    for (std::string w; words >> w;) out.insert(w);
  }
  return out;
}

/// What is missing (-) and what is too much (+); "" when both are the same.
inline std::string difference(const Words& want, const Words& have) {
  std::vector<std::string> less, more;
  std::set_difference(want.begin(), want.end(), have.begin(), have.end(), std::back_inserter(less));
  std::set_difference(have.begin(), have.end(), want.begin(), want.end(), std::back_inserter(more));
  std::string out;
  for (const auto& w : less) out += " -" + w;
  for (const auto& w : more) out += " +" + w;
  return out;
}

}  // namespace calico::test
