// The one translation unit that holds Beast's code and Asio's TLS code (separate compilation of both).
#include <boost/asio/ssl/impl/src.hpp>
#include <boost/beast/src.hpp>
