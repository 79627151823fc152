// Runs the methods marked as tests of the classes that the command names, as JUnit does.
package kotlin.test

import ai.onnxruntime.OnnxTensor

@Retention(AnnotationRetention.RUNTIME)
annotation class Test

fun main(names: Array<String>) {
    var failed = 0
    for (type in names.map { Class.forName(it) }) {
        for (method in type.declaredMethods.filter { it.isAnnotationPresent(Test::class.java) }) {
            val opened = OnnxTensor.open
            val problem = runCatching { method.invoke(type.getDeclaredConstructor().newInstance()) }.exceptionOrNull()
            val left = OnnxTensor.open - opened
            val verdict = problem?.cause?.toString() ?: problem?.toString() ?: if (left == 0) "ok" else "leaves $left tensors open"
            println("${type.simpleName}.${method.name}: $verdict")
            if (verdict != "ok") failed += 1
        }
    }
    if (failed > 0) kotlin.system.exitProcess(1)
}
