// laws: every method against every law, as a table.
#pragma once

namespace gradview {

int laws_main(int argc, const char* const* argv);

}  // namespace gradview
