#include "core/module/loader.hpp"

// std::filesystem instead of a dependency on Boost.Filesystem.
#define BOOST_DLL_USE_STD_FS
#include <algorithm>
#include <boost/dll/shared_library.hpp>
#include <boost/dll/shared_library_load_mode.hpp>
#include <deque>
#include <filesystem>

namespace calico::module {
namespace {

namespace fs = std::filesystem;

std::string name_in_file(const std::string& file) {
  auto stem = fs::path(file).stem().string();
  return stem.starts_with("calico-") ? stem.substr(7) : stem;
}

}  // namespace

Result<Loaded> load(const std::string& file) {
  std::error_code ec;
  const auto path = fs::canonical(file, ec);
  if (ec) return fail(Errc::not_found, "module {}: {}", file, ec.message());

  boost::dll::fs::error_code error;
  // Never unloaded, not even at exit (core/module/README.md).
  static auto& loaded = *new std::deque<boost::dll::shared_library>;
  auto* library = &loaded.emplace_back();
  library->load(boost::dll::fs::path(path.string()), error,
                boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local);
  if (error) return fail(Errc::unsupported, "module {} cannot be loaded: {}", path.string(), error.message());
  if (!library->has("calico_module"))
    return fail(Errc::unsupported, "module {} exports no calico_module: not a module of calico-node", path.string());

  const auto* table = &library->get<const calico_module_v1>("calico_module");
  if (table->abi != kModuleAbi)
    return fail(Errc::unsupported,
                "module {} has abi {}, this calico-node has abi {}: install the same version of both", path.string(),
                table->abi, kModuleAbi);
  if (table->size != sizeof(calico_module_v1))
    return fail(Errc::unsupported,
                "module {} has a table of {} bytes, this calico-node one of {}: install the same version",
                path.string(), table->size, sizeof(calico_module_v1));
  if (!table->build || std::string_view(table->build) != CALICO_MODULE_BUILD)
    return fail(Errc::unsupported, "module {} was built as '{}', this calico-node as '{}': install the same build",
                path.string(), table->build ? table->build : "", CALICO_MODULE_BUILD);
  if (!table->name || table->name != name_in_file(path.string()))
    return fail(Errc::invalid, "module {} calls itself '{}'; the file must be calico-<name>.so", path.string(),
                table->name ? table->name : "");
  return Loaded{table, path.string()};
}

Scan scan(const std::string& folder) {
  Scan out;
  std::error_code ec;
  std::vector<std::string> files;
  for (const auto& e : fs::directory_iterator(folder, ec)) {
    const auto name = e.path().filename().string();
    if (name.starts_with("calico-") && name.ends_with(".so")) files.push_back(e.path().string());
  }
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    if (auto m = load(file))
      out.modules.push_back(*m);
    else
      out.refused.push_back(m.error().what);
  }
  return out;
}

std::string default_folder() {
  std::error_code ec;
  const auto exe = fs::canonical("/proc/self/exe", ec);
  const auto beside = exe.parent_path().parent_path() / "lib" / "calico-node";
  for (const auto& e : fs::directory_iterator(beside, ec))
    if (e.path().filename().string().starts_with("calico-") && e.path().extension() == ".so") return beside.string();
  return CALICO_MODULE_FOLDER;
}

}  // namespace calico::module
