// Stands in for the part of ExecuTorch's Java API that the generated Kotlin uses; it runs nothing.
package org.pytorch.executorch

class Tensor private constructor(val dataAsFloatArray: FloatArray) {
    companion object {
        @JvmStatic fun fromBlob(data: FloatArray, shape: LongArray) = Tensor(data)
    }
}

class EValue private constructor(private val tensor: Tensor) {
    fun toTensor(): Tensor = tensor

    companion object {
        @JvmStatic fun from(tensor: Tensor) = EValue(tensor)
    }
}

class Module private constructor() {
    fun forward(vararg inputs: EValue): Array<EValue> = arrayOf(*inputs)

    fun destroy() {}

    companion object {
        @JvmStatic fun load(path: String) = Module()
    }
}
