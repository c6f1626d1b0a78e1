#pragma once
/// What the operators' commands share: the configuration the process reads, one question to it, reading its JSON.
///
///   json::value v;
///   if (const int code = ask({run_dir, "store get", as_json}, "GET", "/store/get?key=…", &v); code != 0) return code;
///
/// Thread: main; blocks for at most control_call()'s time.
#include <boost/json/value.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/config.hpp"

namespace calico::node {

/// The core's keys as the process reads them. What else is wrong with the files is the process' business.
[[nodiscard]] config::Config process_config(const std::vector<std::string>& files);

struct Question {
  std::string run_dir;
  std::string command;   ///< before each error: "store get"
  bool as_json = false;  ///< print the document, also of a refusal
};
/// Prints errors, and with as_json the document. 0 and `out` is set, or the exit code: 1 the answer is no, 2 a wrong
/// question, 3 nobody answers.
[[nodiscard]] int ask(const Question& q, const std::string& method, const std::string& target, boost::json::value* out);

/// A member, or null.
[[nodiscard]] const boost::json::value& at(const boost::json::value& v, std::string_view key);
/// For people: text as it is, lists by commas, "-" for nothing.
[[nodiscard]] std::string text_of(const boost::json::value& v);
/// Text of a member; "" when there is none.
[[nodiscard]] std::string text_at(const boost::json::value& v, std::string_view key);

}  // namespace calico::node
