// Stands in for the part of ONNX Runtime's Java API that the generated Kotlin uses. A session computes nothing: it gives
// what the real artifact gave, recorded call by call, and only for the very inputs of that call.
package ai.onnxruntime

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.util.Optional

interface OnnxValue : AutoCloseable

interface OnnxTensorLike : OnnxValue

class OnnxTensor private constructor(private val buffer: FloatBuffer, val shape: LongArray) : OnnxTensorLike {
    private var isClosed = false

    /** A copy, as the real one gives. */
    val floatBuffer: FloatBuffer
        get() {
            check(!isClosed) { "a closed tensor is read" }
            return FloatBuffer.allocate(buffer.capacity()).apply { put(buffer.duplicate().rewind() as FloatBuffer); rewind() }
        }

    override fun close() {
        check(!isClosed) { "a tensor is closed twice" }
        isClosed = true
        open -= 1
    }

    companion object {
        var open = 0

        @JvmStatic
        fun createTensor(environment: OrtEnvironment, data: FloatBuffer, shape: LongArray): OnnxTensor {
            check(data.remaining().toLong() == shape.fold(1L) { a, b -> a * b }) { "the buffer does not fill the shape" }
            open += 1
            return OnnxTensor(data, shape)
        }
    }
}

class OrtEnvironment private constructor() {
    fun createSession(path: String, options: OrtSession.SessionOptions): OrtSession = OrtSession(File(path))

    companion object {
        @JvmStatic fun getEnvironment() = OrtEnvironment()
    }
}

class OrtSession(artifact: File) : AutoCloseable {
    class SessionOptions : AutoCloseable {
        fun setIntraOpNumThreads(threads: Int) {}

        override fun close() {}
    }

    class Result(private val tensors: Map<String, OnnxTensor>) : AutoCloseable {
        fun get(name: String): Optional<OnnxValue> = Optional.ofNullable(tensors[name])

        override fun close() = tensors.values.forEach { it.close() }
    }

    private val recording = File("${artifact.path}.calls")
    private var calls = 0

    fun run(inputs: Map<String, OnnxTensorLike>): Result {
        val call = File(recording, "${calls++}")
        check(inputs.keys == names(File(call, "inputs"))) { "inputs ${inputs.keys} in call $calls" }
        for ((name, tensor) in inputs) {
            val given = (tensor as OnnxTensor).floatBuffer
            check(given == read(File(call, "inputs/$name"))) { "$name is not what call $calls was given" }
        }
        return Result(
            names(File(call, "outputs")).associateWith { name ->
                val values = read(File(call, "outputs/$name"))
                OnnxTensor.createTensor(OrtEnvironment.getEnvironment(), values, longArrayOf(values.remaining().toLong()))
            },
        )
    }

    override fun close() {}

    private fun names(folder: File): Set<String> = folder.list()!!.toSet()

    private fun read(file: File): FloatBuffer =
        ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
}
