fun main() {
    println("« ${readLine()} »")
}
