fun main() {
    val kept = mutableListOf<ByteArray>()
    while (true) kept.add(ByteArray(100_000))
}
