#include <cstdio>
int main() { std::puts("calico-node " CALICO_VERSION); }
