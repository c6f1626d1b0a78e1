// Runs a fuzz target without libFuzzer: every file of the corpus folder, every truncation of it, and damaged copies.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS-FOLDER\n", argv[0]);
    return 2;
  }
  std::size_t files = 0, runs = 0;
  std::mt19937_64 random(1);
  const auto run = [&](const std::vector<std::uint8_t>& b) {
    // A copy of the exact size: reading past the end is seen by the sanitizer.
    const std::vector<std::uint8_t> exact(b.begin(), b.end());
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
    ++runs;
  };
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::vector<std::uint8_t> whole((std::istreambuf_iterator<char>(in)), {});
    ++files;
    run(whole);
    for (std::size_t n = 0; n < whole.size(); ++n) run({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n)});
    for (int i = 0; i < 2000; ++i) {
      auto b = whole;
      for (auto k = 1 + random() % 6; k > 0; --k) {
        const auto at = static_cast<std::ptrdiff_t>(b.empty() ? 0 : random() % b.size());
        switch (random() % 3) {
          case 0:
            b.insert(b.begin() + at, static_cast<std::uint8_t>(random()));
            break;
          case 1:
            if (!b.empty()) b.erase(b.begin() + at);
            break;
          default:
            if (!b.empty()) b[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(random());
        }
      }
      run(b);
    }
  }
  std::printf("%zu files, %zu inputs\n", files, runs);
  return files == 0 ? 1 : 0;
}
