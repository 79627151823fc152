package android.content

import java.io.File
import java.io.InputStream

abstract class Context {
    abstract val assets: AssetManager
    abstract val noBackupFilesDir: File
    abstract val cacheDir: File
}

abstract class AssetManager {
    abstract fun open(name: String): InputStream

    abstract fun list(path: String): Array<String>?
}
