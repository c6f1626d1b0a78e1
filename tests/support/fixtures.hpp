#pragma once
/// The recorded data of the real OpenStack driver in tests/fixtures, as keys and values.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace calico::test {

inline std::string fixture_path(std::string_view name) {
  return std::string(CALICO_SOURCE_DIR) + "/tests/fixtures/" + std::string(name);
}

/// Every key of the snapshot with its value, in order.
inline std::vector<std::pair<std::string, std::string>> openstack_snapshot() {
  std::vector<std::pair<std::string, std::string>> out;
  std::ifstream in(fixture_path("openstack-etcd-snapshot.jsonl"));
  for (std::string line; std::getline(in, line);) {
    const auto v = boost::json::parse(line);
    out.emplace_back(std::string(v.at("key").as_string()), std::string(v.at("value").as_string()));
  }
  EXPECT_FALSE(out.empty()) << "no fixture";
  return out;
}

struct LifecycleWrite {
  std::string operation;  ///< the line after "==="
  std::string key;
  std::optional<std::string> value;  ///< absent = deleted
};

/// Every write of the recorded operations, in order.
inline std::vector<LifecycleWrite> openstack_lifecycle() {
  std::vector<LifecycleWrite> out;
  std::ifstream in(fixture_path("openstack-etcd-lifecycle.txt"));
  std::string operation;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("=== ")) operation = line.substr(4);
    if (line.starts_with("  rev ")) {
      const auto word = line.find(' ', 6) + 1;
      const auto key = line.substr(line.find(' ', word) + 1);
      const bool put = line.substr(word).starts_with("PUT ");
      std::string value;
      if (put) std::getline(in, value);
      const auto text = value.find_first_not_of(' ');
      out.push_back({operation, key, put ? std::optional(value.substr(text)) : std::nullopt});
    }
  }
  EXPECT_FALSE(out.empty()) << "no fixture";
  return out;
}

}  // namespace calico::test
