#include "core/log/log.hpp"

#include <fmt/chrono.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>

namespace calico::log {
namespace {

std::atomic<Level> g_level{Level::info};
std::atomic<Format> g_format{Format::text};

spdlog::logger& sink() {
  static auto logger = [] {
    auto l = spdlog::logger("calico", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    l.set_pattern("%v");
    l.set_level(spdlog::level::trace);
    l.flush_on(spdlog::level::trace);
    return std::make_shared<spdlog::logger>(std::move(l));
  }();
  return *logger;
}

std::string_view name(Level level) {
  switch (level) {
    case Level::debug:
      return "debug";
    case Level::info:
      return "info";
    case Level::warn:
      return "warn";
    case Level::error:
      return "error";
  }
  return "?";
}

void append_escaped(std::string& out, std::string_view s) {
  for (char c : s) {
    auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (u < 0x20 || u == 0x7f) {
      out += fmt::format("\\u{:04x}", u);
    } else {
      out += c;
    }
  }
}

bool plain(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) {
    auto u = static_cast<unsigned char>(c);
    return u > 0x20 && u != 0x7f && c != '"' && c != '=' && c != '\\';
  });
}

}  // namespace

void init(Level level, Format format) {
  g_level = level;
  g_format = format;
}

Result<Level> parse_level(std::string_view text) {
  for (auto l : {Level::debug, Level::info, Level::warn, Level::error})
    if (text == name(l)) return l;
  return fail(Errc::invalid, "'{}' is not a log level (debug, info, warn, error)", text);
}

bool enabled(Level level) { return level >= g_level.load(std::memory_order_relaxed); }

void write(Level level, std::string_view id, std::initializer_list<Field> fields) {
  auto now = std::chrono::system_clock::now();
  auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::string line;
  if (g_format.load(std::memory_order_relaxed) == Format::json) {
    line = fmt::format("{{\"time\":\"{:%Y-%m-%dT%H:%M:%S}.{:03}Z\",\"level\":\"{}\",\"id\":\"{}\"",
                       fmt::gmtime(std::chrono::system_clock::to_time_t(now)), ms, name(level), id);
    for (const auto& f : fields) {
      line += fmt::format(",\"{}\":\"", f.key);
      append_escaped(line, f.value);
      line += '"';
    }
    line += '}';
  } else {
    line = fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z {:5} {}", fmt::gmtime(std::chrono::system_clock::to_time_t(now)),
                       ms, name(level), id);
    for (const auto& f : fields) {
      line += fmt::format(" {}=", f.key);
      if (plain(f.value)) {
        line += f.value;
      } else {
        line += '"';
        append_escaped(line, f.value);
        line += '"';
      }
    }
  }
  sink().info(spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace calico::log
