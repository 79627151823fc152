// Stands in for the part of Android that the generated Kotlin uses; it runs nothing.
package android.graphics

import android.hardware.HardwareBuffer
import java.nio.Buffer

class Bitmap(val width: Int, val height: Int, val config: Config?) {
    enum class Config { ARGB_8888, HARDWARE }

    val hardwareBuffer: HardwareBuffer get() = HardwareBuffer()

    fun copyPixelsFromBuffer(source: Buffer) {}

    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {}

    fun copy(config: Config, isMutable: Boolean): Bitmap? = null

    fun recycle() {}

    companion object {
        @JvmStatic fun createBitmap(width: Int, height: Int, config: Config) = Bitmap(width, height, config)
    }
}
