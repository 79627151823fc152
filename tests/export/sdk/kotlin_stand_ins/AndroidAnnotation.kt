package android.annotation

annotation class TargetApi(val value: Int)
