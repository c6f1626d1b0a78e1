# Installed layout: CONTRACT "Paths": binary in bin, core in libdir, modules in a folder of their own version.
install(TARGETS calico-node RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS calico-core LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/calico-node)
get_property(_modules GLOBAL PROPERTY CALICO_MODULES)
if(_modules)
  install(TARGETS ${_modules} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/calico-node/modules-${PROJECT_VERSION})
endif()
