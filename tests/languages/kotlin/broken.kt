fun main() {
    val a: Int = "no"
}
