import shop.total

fun main() {
    println(total(6, 7))
}
