#include "core/bgp/birdc/command.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>
#include <vector>

namespace calico::bgp::birdc {
namespace {

constexpr int kAccessDenied = 8007;

struct Word {
  std::string text;
  bool quoted = false;
};

std::vector<Word> words_of(std::string_view line) {
  std::vector<Word> out;
  Word word;
  bool inside = false;
  const auto finish = [&] {
    if (word.quoted || !word.text.empty()) out.push_back(std::exchange(word, {}));
  };
  for (char c : line) {
    if (c == '"') {
      inside = !inside;
      word.quoted = true;
    } else if (!inside && (c == ' ' || c == '\t' || c == '\r')) {
      finish();
    } else {
      word.text += c;
    }
  }
  finish();
  return out;
}

bool matches(std::string_view pattern, std::string_view text) {
  // Linear in the text for each star: remembers the last star and backs up to it only.
  std::size_t p = 0, t = 0, star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p, ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

/// Takes words one after the other.
class Parser {
 public:
  Parser(std::vector<Word> words, const Shape& shape) : words_(std::move(words)), shape_(shape) {}

  Command command() {
    if (take("show")) return show();
    if (take("restrict")) return end(Restrict{});
    if (take("configure")) return configure();
    if (take("enable")) return operate(Operate::Verb::enable);
    if (take("disable")) return operate(Operate::Verb::disable);
    if (take("restart")) return operate(Operate::Verb::restart);
    if (take("reload"))
      return operate(take("in")    ? Operate::Verb::reload_in
                     : take("out") ? Operate::Verb::reload_out
                                   : Operate::Verb::reload);
    if (take("graceful")) return graceful();
    if (take("down"))
      return Refused{kAccessDenied, "Access denied: calico-node ends with its service (systemctl stop calico-node)"};
    for (std::string_view verb : {"debug", "mrtdump", "eval", "dump", "echo"})
      if (take(verb)) return Refused{9001, fmt::format("'{}' is not supported here", verb)};
    return unexpected();
  }

 private:
  bool more() const { return at_ < words_.size(); }
  bool take(std::string_view keyword) {
    if (!more() || words_[at_].quoted || words_[at_].text != keyword) return false;
    ++at_;
    return true;
  }
  Refused unexpected() const {
    return {9001, more() ? fmt::format("syntax error, unexpected '{}'", words_[at_].text.substr(0, 64))
                         : "syntax error, unexpected end"};
  }
  Command end(Command c) const { return more() ? Command(unexpected()) : c; }

  /// A name, a pattern, or `all`; nothing is all too.
  Names names() {
    if (!more() || take("all")) return {};
    auto& w = words_[at_++];
    const bool pattern = w.quoted || w.text.find_first_of("*?") != std::string::npos;
    return {pattern ? Names::Kind::pattern : Names::Kind::name, std::move(w.text)};
  }

  Command operate(Operate::Verb verb) {
    if (!more()) return unexpected();  // BIRD too wants to hear `all`
    Operate o{verb, names(), {}};
    if (verb == Operate::Verb::disable && more() && words_[at_].quoted) o.message = std::move(words_[at_++].text);
    return end(std::move(o));
  }

  Command configure() {
    if (take("check")) return end(ConfigureCommand{true});
    // Ours never restarts more than it must: soft has nothing left to spare.
    take("soft");
    for (std::string_view other : {"timeout", "confirm", "undo"})
      if (take(other))
        return Refused{9001, fmt::format("'configure {}' is not supported here: change the file back", other)};
    if (more() && words_[at_].quoted)
      return Refused{9001, "the files are those calico-node was started with: configure without a name"};
    return end(ConfigureCommand{});
  }

  Command graceful() {
    if (take("restart"))
      return Refused{kAccessDenied,
                     "Access denied: every stop is one that neighbours keep our routes for (systemctl restart "
                     "calico-node)"};
    if (!take("shutdown")) return unexpected();
    if (take("off")) return end(Drain{false});
    take("on");
    return end(Drain{true});
  }

  Command show() {
    if (take("status")) return end(ShowStatus{});
    if (take("protocols")) {
      ShowProtocols c;
      c.all = take("all");
      c.names = names();
      return end(std::move(c));
    }
    if (take("route")) return route();
    if (take("interfaces")) {
      const bool summary = take("summary");
      return end(ShowInterfaces{summary});
    }
    if (take("memory")) return end(ShowMemory{});
    if (take("symbols")) {
      ShowSymbols c;
      if (more()) c.only = std::move(words_[at_++].text);
      return end(std::move(c));
    }
    for (std::string_view other : {"static", "ospf", "rip", "babel", "bfd", "roa"})
      if (take(other)) return Refused{9001, fmt::format("There is no {} protocol running", other)};
    return unexpected();
  }

  Command route() {
    ShowRoute c;
    auto& q = c.query;
    q.family = shape_.only;
    while (more()) {
      if (take("all")) {
        q.with_attributes = true;
      } else if (take("primary")) {
        q.best_only = true;
      } else if (take("count")) {
        c.count = true;
      } else if (take("stats")) {
        c.stats = true;
      } else if (take("filtered")) {
        c.filtered = true;
      } else if (take("for")) {
        if (!more()) return unexpected();
        auto p = Prefix::parse(words_[at_].text);
        if (!p || !shape_.shows(p->family())) return unexpected();
        q.covering = p->addr;
        ++at_;
      } else if (take("protocol")) {
        if (!more()) return unexpected();
        const auto& name = words_[at_++].text;
        q.peer = name == kKernel ? std::string() : name;
      } else if (take("export") || take("preexport")) {
        if (!more()) return unexpected();
        q.exported_to = words_[at_++].text;
      } else if (take("noexport")) {
        if (!more()) return unexpected();
        q.exported_to = words_[at_++].text;
        q.not_exported = true;
      } else if (take("table")) {
        if (!more()) return unexpected();
        const auto& name = words_[at_].text;
        if (shape_.bird1() ? name == "master" : name == "all") {
          // everything the socket shows
        } else if (!shape_.bird1() && (name == "master4" || name == "master6")) {
          q.family = name == "master4" ? Family::v4 : Family::v6;
        } else {
          return Refused{9001, fmt::format("{} is not a table", name.substr(0, 64))};
        }
        ++at_;
      } else {
        auto p = Prefix::parse(words_[at_].text);
        if (!p || !shape_.shows(p->family())) return unexpected();
        q.exact = *p;
        ++at_;
      }
    }
    return c;
  }

  std::vector<Word> words_;
  const Shape& shape_;
  std::size_t at_ = 0;
};

}  // namespace

bool Names::fits(std::string_view name) const {
  return kind == Kind::all || (kind == Kind::name ? name == text : matches(text, name));
}

Command parse(std::string_view line, const Shape& shape) { return Parser(words_of(line), shape).command(); }

bool allowed_when_restricted(const Command& command) {
  // A check changes nothing but reads files with our rights; BIRD refuses it too.
  return !std::holds_alternative<ConfigureCommand>(command) && !std::holds_alternative<Operate>(command) &&
         !std::holds_alternative<Drain>(command);
}

}  // namespace calico::bgp::birdc
