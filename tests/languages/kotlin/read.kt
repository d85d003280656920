import java.io.File

fun main() {
    print(File("out.txt").readText())
}
