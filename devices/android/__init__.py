"""Android phones over adb: connection, facts, native runners and their build, stock binaries."""
