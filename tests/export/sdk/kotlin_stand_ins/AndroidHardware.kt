package android.hardware

class HardwareBuffer : AutoCloseable {
    override fun close() {}
}
