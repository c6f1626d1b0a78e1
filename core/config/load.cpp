#include "core/config/load.hpp"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <set>

#include "core/config/upstream.hpp"

namespace calico::config {
namespace {

constexpr std::size_t kMaxFile = 1 << 20;
constexpr std::size_t kMaxSectionName = 64;

std::string_view trim(std::string_view s) {
  while (!s.empty() && std::isspace(static_cast<unsigned char>(s.front()))) s.remove_prefix(1);
  while (!s.empty() && std::isspace(static_cast<unsigned char>(s.back()))) s.remove_suffix(1);
  return s;
}

/// A comment begins with ; or # at the start of the line or after white space.
std::string_view without_comment(std::string_view line) {
  for (std::size_t i = 0; i < line.size(); ++i)
    if ((line[i] == ';' || line[i] == '#') && (i == 0 || std::isspace(static_cast<unsigned char>(line[i - 1]))))
      return line.substr(0, i);
  return line;
}

std::string upper(std::string_view s) {
  std::string out(s);
  for (auto& c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

bool good_section_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxSectionName && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.';
  });
}

bool good_number(std::string_view text) {
  return !text.empty() && text.size() <= 6 && text.front() != '0' &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

struct IniLine {
  std::string section, key, value, where;
};

void read_ini(const std::string& file, bool must_exist, std::vector<IniLine>& out, Faults& faults) {
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    if (must_exist) faults.push_back({file, "", "cannot be read: no such file or no permission"});
    return;
  }
  std::string section, line;
  std::size_t total = 0;
  for (int number = 1; std::getline(in, line); ++number) {
    const auto where = fmt::format("{}:{}", file, number);
    if ((total += line.size() + 1) > kMaxFile) {
      faults.push_back({where, "", "file larger than 1 MiB"});
      return;
    }
    const auto text = trim(without_comment(line));
    if (text.empty()) continue;
    if (std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 && c != '\t'; })) {
      faults.push_back({where, "", "control character"});
      continue;
    }
    if (text.front() == '[') {
      if (text.back() != ']' || text.size() < 3) {
        faults.push_back({where, "", "section header is not [name]"});
        section.clear();
        continue;
      }
      section = std::string(trim(text.substr(1, text.size() - 2)));
      continue;
    }
    const auto eq = text.find('=');
    if (eq == std::string_view::npos) {
      faults.push_back({where, "", fmt::format("'{}' is neither [section] nor key = value", text.substr(0, 60))});
      continue;
    }
    if (section.empty()) {
      faults.push_back({where, std::string(trim(text.substr(0, eq))), "stands before any [section]"});
      continue;
    }
    out.push_back({section, std::string(trim(text.substr(0, eq))), std::string(trim(text.substr(eq + 1))), where});
  }
}

class Builder {
 public:
  explicit Builder(std::shared_ptr<const Schema> schema) : schema_(std::move(schema)) {}

  void defaults(const std::string& host_name) {
    for (const auto* row : schema_->rows()) {
      const std::string_view name = row->name;
      if (name.find('*') != std::string_view::npos) continue;
      values_[std::string(name)] = {name == "node.name" ? host_name : row->def, "default", kLayerDefault};
    }
  }

  void put(const std::string& section, const std::string& key, const std::string& text, const std::string& where,
           int layer) {
    const auto name = section + "." + key;
    const auto* row = schema_->find(name);
    if (!row) {
      const bool known = schema_->has_section(section);
      loaded_.faults.push_back({where, name, known ? "unknown key" : fmt::format("unknown section [{}]", section)});
      return;
    }
    if (std::string_view(row->name).find(".*.") != std::string_view::npos) {
      const std::string_view pattern = row->name;
      const auto kind = pattern.substr(0, pattern.find(".*."));
      if (!good_section_name(section_of(*row, name).substr(kind.size() + 1))) {
        loaded_.faults.push_back({where, name, "section name: letters, digits, '-', '_' and '.', at most 64"});
        return;
      }
      if (pattern.ends_with(".*") && !good_number(std::string_view(name).substr(name.rfind('.') + 1))) {
        loaded_.faults.push_back({where, name, "the key ends in a number from 1 to 999999, without leading zeros"});
        return;
      }
    }
    if (!text.empty())
      if (auto ok = check_value(*row, text); !ok) {
        loaded_.faults.push_back({where, name, ok.error().what});
        return;
      }
    auto& slot = values_[name];
    // "key =" in a file goes back to unset, over a default as well: the sample says `region =`.
    if (layer >= slot.layer) slot = {text, where, layer};
  }

  /// By upstream's name. That file and those variables are shared with upstream: nothing in them keeps us from
  /// starting, and an empty value is none.
  void put_felix(std::string_view upstream, std::string_view text, const std::string& where, int layer) {
    const auto* row = schema_->find_felix(upstream);
    if (!row) {
      if (warned_.insert(upper(upstream)).second)
        loaded_.warnings.push_back(fmt::format("{}: {} {}", where, upstream, unused(upstream)));
      return;
    }
    if (text.empty()) return;
    auto ours = from_upstream(*row, text);
    if (!ours) {
      loaded_.warnings.push_back(fmt::format("{}: {} is ignored: {}", where, upstream, ours.error().what));
      return;
    }
    auto& slot = values_[row->name];
    if (layer >= slot.layer) slot = {std::move(*ours), where, layer, true};
  }

  void file(const std::string& path, bool must_exist) {
    std::vector<IniLine> lines;
    read_ini(path, must_exist, lines, loaded_.faults);
    for (const auto& l : lines) put(l.section, l.key, l.value, l.where, kLayerFile);
  }

  void felix_cfg(const std::string& path, bool must_exist) {
    if (path.empty()) return;
    std::vector<IniLine> lines;
    read_ini(path, must_exist, lines, loaded_.faults);
    for (const auto& l : lines) put_felix(l.key, l.value, l.where, kLayerFelixCfg);
  }

  void environment(const std::vector<std::pair<std::string, std::string>>& env) {
    for (const auto& [name, text] : env) {
      if (name.starts_with("FELIX_")) {
        put_felix(std::string_view(name).substr(6), text, "environment " + name, kLayerEnvironment);
      } else if (name.starts_with("CALICO_NODE_")) {
        const auto rest = std::string_view(name).substr(12);
        const Param* found = nullptr;
        for (const auto* row : schema_->rows()) {
          std::string flat = upper(row->name);
          if (flat.find('*') != std::string::npos) continue;
          std::replace(flat.begin(), flat.end(), '.', '_');
          if (flat == rest) found = row;
        }
        if (!found) {
          loaded_.faults.push_back({"environment " + name, std::string(rest), "no such section and key"});
          continue;
        }
        const std::string_view full = found->name;
        const auto dot = full.rfind('.');
        put(std::string(full.substr(0, dot)), std::string(full.substr(dot + 1)), text, "environment " + name,
            kLayerEnvironment);
      }
    }
  }

  void set(const std::string& text) {
    const auto eq = text.find('=');
    const auto dot = eq == std::string::npos ? eq : text.rfind('.', eq);
    if (eq == std::string::npos || dot == std::string::npos || dot == 0 || dot + 1 == eq) {
      loaded_.faults.push_back({"--set", text.substr(0, 60), "must be section.key=value"});
      return;
    }
    put(text.substr(0, dot), text.substr(dot + 1, eq - dot - 1), std::string(trim(text.substr(eq + 1))), "--set",
        kLayerSet);
  }

  const std::string& text(std::string_view name) { return values_.find(name)->second.text; }

  Loaded finish() {
    // Named sections: required keys given, the rest defaulted.
    std::map<std::string, std::string> where_of_section;
    std::map<std::string, std::string_view> kind_of_section;
    for (const auto& [name, value] : values_) {
      const std::string_view pattern = schema_->find(name)->name;
      const auto star = pattern.find(".*.");
      if (star == std::string_view::npos) continue;
      const auto section = std::string(section_of(*schema_->find(name), name));
      where_of_section.try_emplace(section, value.where);
      kind_of_section[section] = pattern.substr(0, star);
    }
    for (const auto& [section, kind] : kind_of_section) {
      for (const auto* row : schema_->rows()) {
        const std::string_view pattern = row->name;
        if (!pattern.starts_with(std::string(kind) + ".*.") || pattern.ends_with(".*")) continue;
        const auto name = section + std::string(pattern.substr(pattern.rfind('.')));
        const auto it = values_.find(name);
        if (row->required && (it == values_.end() || it->second.text.empty()))
          loaded_.faults.push_back({where_of_section[section], name, "missing; this section needs it"});
        if (it == values_.end()) values_[name] = {row->def, "default", kLayerDefault};
      }
    }
    loaded_.config = Config(schema_, std::move(values_));
    return std::move(loaded_);
  }

 private:
  std::shared_ptr<const Schema> schema_;
  std::map<std::string, Value, std::less<>> values_;
  Loaded loaded_;
  std::set<std::string> warned_;
};

}  // namespace

Loaded load(std::shared_ptr<const Schema> schema, const Sources& sources) {
  Builder b(schema);
  b.defaults(sources.host_name);
  std::vector<std::string> files = sources.files;
  const bool given = !files.empty();
  if (!given) {
    std::error_code ec;
    if (std::filesystem::exists(kDefaultFile, ec)) files.emplace_back(kDefaultFile);
    std::vector<std::string> drop_ins;
    for (const auto& e : std::filesystem::directory_iterator(kDefaultDropIns, ec))
      if (e.path().extension() == ".conf") drop_ins.push_back(e.path().string());
    std::sort(drop_ins.begin(), drop_ins.end());
    files.insert(files.end(), drop_ins.begin(), drop_ins.end());
  }
  for (const auto& f : files) b.file(f, true);
  b.environment(sources.environment);
  for (const auto& s : sources.sets) b.set(s);
  // Which felix.cfg is read is itself configured; its layer lies below the files all the same (put() compares layers).
  const std::string felix_cfg = b.text("node.felix_cfg");
  b.felix_cfg(felix_cfg, felix_cfg != "/etc/calico/felix.cfg");
  return b.finish();
}

std::vector<std::pair<std::string, std::string>> process_environment() {
  std::vector<std::pair<std::string, std::string>> out;
  for (char** e = environ; e && *e; ++e) {
    const std::string_view line = *e;
    const auto eq = line.find('=');
    if (eq == std::string_view::npos) continue;
    const auto name = line.substr(0, eq);
    if (name.starts_with("FELIX_") || name.starts_with("CALICO_NODE_"))
      out.emplace_back(std::string(name), std::string(line.substr(eq + 1)));
  }
  return out;
}

}  // namespace calico::config
