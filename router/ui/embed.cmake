# Writes OUT, a C++ file that defines PageFiles() with the files of FOLDER. cmake -DFOLDER=... -DOUT=... -P embed.cmake
# A file is named here once: name|path of the request|content type.
set(files "index.html|/ui/|text/html" "page.css|/ui/page.css|text/css" "theme.js|/ui/theme.js|text/javascript"
    "dom.js|/ui/dom.js|text/javascript" "charts.js|/ui/charts.js|text/javascript" "cluster.js|/ui/cluster.js|text/javascript"
    "playground.js|/ui/playground.js|text/javascript" "page.js|/ui/page.js|text/javascript"
    "icon.svg|/ui/icon.svg|image/svg+xml")
set(code "// Made by router/ui/embed.cmake.\n#include \"router/ui/page_files.h\"\n\nnamespace pagoda::router::ui {\n")
string(APPEND code "namespace {\nconstexpr PageFile kFiles[] = {\n")
foreach(entry IN LISTS files)
  string(REPLACE "|" ";" parts "${entry}")
  list(GET parts 0 name)
  list(GET parts 1 path)
  list(GET parts 2 type)
  file(READ "${FOLDER}/${name}" text HEX)
  file(SIZE "${FOLDER}/${name}" size)
  string(REGEX REPLACE "(..)" "\\\\x\\1" text "${text}")
  string(APPEND code "    {\"${path}\", \"${type}; charset=utf-8\", std::string_view(\"${text}\", ${size})},\n")
endforeach()
string(APPEND code "};\n}  // namespace\n\nstd::span<const PageFile> PageFiles() { return kFiles; }\n\n}  // namespace pagoda::router::ui\n")
file(WRITE "${OUT}" "${code}")
