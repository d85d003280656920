fun main() {
    val words = listOf("a", "bb", "cccc")
    val sum: Int = words.sumOf { it.length }
    check("a".uppercase() == "A" && 'b'.uppercaseChar() == 'B' && "ab".replaceFirstChar { it.uppercase() } == "Ab")
    check(words.maxOrNull() == "cccc" && words.minByOrNull { it.length } == "a" && words.sumOf { 0.5 } == 1.5)
    check(buildList<Int> { add(1); addAll(listOf(2)) } == listOf(1, 2) && words.maxOf { it.length } == 4)
    println(sum)
}
