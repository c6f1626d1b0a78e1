// main() of every test program: quiet logs, so that a failure is what one reads.
#include <gmock/gmock.h>

#include <cstdlib>

#include "core/log/log.hpp"

int main(int argc, char** argv) {
  const char* level = std::getenv("CALICO_TEST_LOG");
  auto parsed = calico::log::parse_level(level ? level : "error");
  calico::log::init(parsed ? *parsed : calico::log::Level::error, calico::log::Format::text);
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
