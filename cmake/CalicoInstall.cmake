# Installed layout: CONTRACT "Paths": binary in bin, core in libdir, modules in a folder of their own version. Packages
# (deb/, rpm/) split what is installed here by its path; nothing is installed that they do not ship.
set(_private ${CMAKE_INSTALL_LIBDIR}/calico-node)
install(TARGETS calico-node RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS calico-core LIBRARY DESTINATION ${_private})
get_property(_modules GLOBAL PROPERTY CALICO_MODULES)
if(_modules)
  install(TARGETS ${_modules} LIBRARY DESTINATION ${_private}/modules-${PROJECT_VERSION})
endif()

# Applets by their own names: diag, lab, birdc, guard. birdc is also in the path: bird2's is in sbin.
foreach(applet diag lab guard birdc)
  install(CODE "file(MAKE_DIRECTORY \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${_private}/bin\")
    file(CREATE_LINK ../../../bin/calico-node \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${_private}/bin/${applet}\" SYMBOLIC)")
endforeach()
install(CODE "file(CREATE_LINK calico-node \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}/birdc\" SYMBOLIC)")

# A file a role: the packages of roles bring theirs, `role installed` runs those that are there.
foreach(role controller compute route-reflector felix)
  file(WRITE ${CMAKE_BINARY_DIR}/roles.d/${role} "# Role ${role}: run by `calico-node role installed`.\n")
  install(FILES ${CMAKE_BINARY_DIR}/roles.d/${role} DESTINATION ${_private}/roles.d)
endforeach()

# Installed with every key as a comment: keys of a role that is not installed would be faults.
file(READ etc/calico-node.conf _sample)
string(REGEX REPLACE "\n([a-z0-9_]+ *=)" "\n;\\1" _sample "${_sample}")
string(REPLACE "Every key is shown with its default;" "Every key is shown with its default, as a comment;" _sample "${_sample}")
file(WRITE ${CMAKE_BINARY_DIR}/etc/calico-node.conf "${_sample}")
install(FILES ${CMAKE_BINARY_DIR}/etc/calico-node.conf DESTINATION /etc/calico-node)
install(DIRECTORY DESTINATION /etc/calico-node/conf.d)
set(CALICO_UNIT_DIR lib/systemd/system CACHE STRING "Where systemd units are installed")
install(FILES etc/systemd/calico-node.service etc/systemd/calico-node-guard.service DESTINATION ${CALICO_UNIT_DIR})
install(FILES etc/sysctl.d/60-calico-node.conf DESTINATION lib/sysctl.d)
install(FILES etc/iproute2/calico-node.conf DESTINATION /etc/iproute2/rt_protos.d)
install(FILES etc/bash-completion/calico-node DESTINATION share/bash-completion/completions)
add_custom_target(calico-man
  COMMAND ${CMAKE_SOURCE_DIR}/etc/man.sh $<TARGET_FILE:calico-node> ${CMAKE_BINARY_DIR}/lib/calico-node ${CMAKE_BINARY_DIR}/man
  DEPENDS calico-all COMMENT "Man pages" VERBATIM)
install(DIRECTORY ${CMAKE_BINARY_DIR}/man/ DESTINATION share/man/man8 OPTIONAL FILES_MATCHING PATTERN "*.8.gz")
install(DIRECTORY ${CMAKE_BINARY_DIR}/man/ DESTINATION share/man/man5 OPTIONAL FILES_MATCHING PATTERN "*.5.gz")
